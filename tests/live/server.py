"""An OpenAI-compatible server with a known law, in a process of its own: the first segment of the path names its habits.

A prompt of n tokens of which c are cached (in blocks of 16, by content) answers its first token after
FIRST_S + TOKEN_S x (n - c), and one every STEP_S after that.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

FIRST_S, TOKEN_S, STEP_S, BLOCK = 0.040, 50e-6, 0.008, 16
VLLM_PAGE = """# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.92",\
kv_cache_memory_bytes="8589934592",kv_offloading_backend="native",kv_offloading_size="None",num_gpu_blocks="4096"} 1.0
vllm:prefix_cache_queries_total{engine="0",model_name="toy"} %(queries).1f
vllm:prefix_cache_hits_total{engine="0",model_name="toy"} %(hits).1f
vllm:prompt_tokens_total{engine="0",model_name="toy"} %(queries).1f
vllm:generation_tokens_total{engine="0",model_name="toy"} %(output).1f
vllm:num_requests_running{engine="0",model_name="toy"} 0.0
vllm:num_requests_waiting{engine="0",model_name="toy"} 0.0
"""


GARBAGE = {
    "nojson": b"data: {oops\n\n",
    "noobject": b"data: [1, 2]\n\n",
    "notokens": b'data: {"choices": [], "usage": {"prompt_tokens": -1e999}}\n\n',
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "noutf8": b'data: {"choices": [{"text": "\xff"}]}\n\n',
    "comment": b": keep-alive\n\nevent: x\nid: 7\n\n",
    "told": b'data: {"error": {"message": "no memory for s3cret"}}\n\n',
}
"""What some servers stream before the first token."""


class Habits:
    """The state of one kind of server: what it has cached, counted and seen."""

    def __init__(self) -> None:
        self.cached: set[int] = set()
        self.queries = self.hits = self.output = self.requests = 0
        self.sent: dict[str, list[float]] = {}  # by the number of the request: when each chunk was handed to the network
        self.headers: list[dict[str, str]] = []


def law_s(prompt: int, cached: int) -> float:
    """Seconds to the first token."""
    return FIRST_S + TOKEN_S * (prompt - cached)


def _law(prompt: int, cached: int, table: dict[str, list[float]]) -> tuple[float, float]:
    if f"{prompt}/{cached}" in table:
        first_s, step_s = table[f"{prompt}/{cached}"]
        return first_s, step_s
    return law_s(prompt, cached), STEP_S


class Server:
    """Handlers of every path."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.habits: dict[str, Habits] = {}
        self.table = table

    def of(self, request: web.Request) -> tuple[str, Habits]:
        name = request.match_info["habit"]
        return name, self.habits.setdefault(name, Habits())

    async def models(self, request: web.Request) -> web.Response:
        name, _ = self.of(request)
        if name == "locked" and request.headers.get("Authorization") != "Bearer s3cret":
            return web.json_response({"error": {"message": f"no such key: {request.headers.get('Authorization')}"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": "toy", "max_model_len": 40000, "root": "org/llama-3.1-8b"}]})

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.24.0"})

    async def metrics(self, request: web.Request) -> web.Response:
        name, habits = self.of(request)
        if name == "silent":
            raise web.HTTPNotFound
        return web.Response(text=VLLM_PAGE % {"queries": habits.queries, "hits": habits.hits, "output": habits.output})

    async def seen(self, request: web.Request) -> web.Response:
        _, habits = self.of(request)
        return web.json_response({"requests": habits.requests, "sent": habits.sent})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        name, habits = self.of(request)
        arrived_s = time.perf_counter()
        asked = await request.json()
        chat = request.path.endswith("chat/completions")
        if name.endswith("-longest"):
            name = name.removesuffix("-longest") if 700 < len(asked.get("prompt", "")) < 2000 else "law"
        if name.endswith("-later"):  # a vice that only long prompts meet
            name = name.removesuffix("-later") if len(asked.get("prompt", "")) > 600 else "law"
        refused = self._refused(name, habits, request, asked, chat)
        if refused is not None:
            return refused
        habits.requests += 1
        prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
        ids = [hash(word) for word in prompt.split()] if isinstance(prompt, str) else prompt
        cached, output = self._look_up(habits, ids), asked["max_tokens"]
        habits.queries, habits.hits, habits.output = habits.queries + len(ids), habits.hits + cached, habits.output + output
        first_s, step_s = _law(len(ids), cached, self.table)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        told = cached + 16 if name == "liar" and len(ids) > 48 else cached
        each = 2 if name in ("pairs", "countedpairs") else 1
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": told}}
        running = asked.get("stream_options", {}).get("continuous_usage_stats") and name not in ("pairs", "uncounted")
        sent = habits.sent.setdefault(str(habits.requests), [])

        async def send(text: str, tokens: int, finish: str | None = None) -> None:
            choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            event: dict[str, Any] = {"choices": [choice]}
            if running:
                event["usage"] = usage | {"completion_tokens": tokens}
            sent.append(time.perf_counter())
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        if name == "head":
            await send("", 0)
        if name in GARBAGE:
            await response.write(GARBAGE[name])
        done = 0
        while done < output:
            done = min(output, done + each)
            await _until(arrived_s + first_s + step_s * (done - each))
            if name == "stalls" and done > output // 2:
                await asyncio.sleep(30)
            if name == "drops" and done > output // 2:
                request.transport.close()
                return response
            await send("" if name == "silent-first" and done == 1 else " tok" * each, done, "length" if done == output else None)
        if asked.get("return_cached_tokens_details"):
            placed = {"device": cached - 16 * (cached > 16), "host": 16 * (cached > 16), "storage_backend": "file"}
            await response.write(b"data: " + json.dumps({"choices": [], "sglext": {"cached_tokens_details": placed}}).encode() + b"\n\n")
            usage.pop("prompt_tokens_details")
        final = {"choices": [], "usage": usage | {"completion_tokens": output}}
        if name != "uncounted":
            await response.write(b"data: " + json.dumps(final).encode() + b"\r\n\r\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _refused(self, name: str, habits: Habits, request: web.Request, asked: dict[str, Any], chat: bool) -> web.Response | None:
        def no(status: int, message: str) -> web.Response:
            return web.json_response({"error": {"message": message}}, status=status)

        if name == "locked" and request.headers.get("Authorization") != "Bearer s3cret":
            return no(401, f"no such key: {request.headers.get('Authorization')}")
        if name == "http429" or (name == "quota" and habits.requests >= 3):
            return no(429, "slow down")
        if name == "http500":
            return no(500, "out of luck")
        if name == "textonly" and not chat and not isinstance(asked.get("prompt"), str):
            return no(400, "prompt must be a string")
        if name == "chatonly" and not chat:
            return no(404, "no such page")
        if name == "plain" and (unknown := set(asked) & {"ignore_eos", "return_cached_tokens_details"}):
            return no(400, f"unknown fields {unknown}")
        return None

    def _look_up(self, habits: Habits, ids: list[int]) -> int:
        """Cached tokens of a prompt, at least one left to compute; caches all of it."""
        keys, key = [], 0
        for at in range(0, len(ids) // BLOCK * BLOCK, BLOCK):
            key = hash((key, *ids[at : at + BLOCK]))
            keys.append(key)
        hits = next((at for at, one in enumerate(keys) if one not in habits.cached), len(keys))
        habits.cached.update(keys)
        return min(hits, (len(ids) - 1) // BLOCK) * BLOCK


async def _until(moment_s: float) -> None:
    """To a moment as exactly as the loop's clock allows: its timers round up to a millisecond."""
    while (left_s := moment_s - time.perf_counter()) > 0:
        await asyncio.sleep(left_s - 0.0015 if left_s > 0.002 else 0)


def serve(pipe: Any, table: dict[str, list[float]]) -> None:
    """Serve until the process is ended; tells its port."""

    async def main() -> None:
        server = Server(table)
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/{habit}/v1/models", server.models)
        app.router.add_get("/{habit}/version", server.version)
        app.router.add_get("/{habit}/metrics", server.metrics)
        app.router.add_get("/{habit}/seen", server.seen)
        app.router.add_post("/{habit}/v1/completions", server.complete)
        app.router.add_post("/{habit}/v1/chat/completions", server.complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(site._server.sockets[0].getsockname()[1])
        await asyncio.sleep(3600)

    sys.setswitchinterval(1e-3)
    asyncio.run(main())


@contextmanager
def running(table: dict[str, list[float]] | None = None) -> Iterator[str]:
    """The address of a server in another process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    worker = context.Process(target=serve, args=(theirs, table or {}), daemon=True)
    worker.start()
    try:
        assert mine.poll(30), "the test server did not start"
        yield f"http://127.0.0.1:{mine.recv()}"
    finally:
        worker.terminate()
        worker.join()
