"""Fetching from a hub: one of our own on the loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

CONFIG = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2}
CONFIG |= {"intermediate_size": 512, "vocab_size": 1000, "torch_dtype": "bfloat16", "max_position_embeddings": 4096}
FILES = {
    "/open/Model-1B/resolve/main/config.json": json.dumps(CONFIG).encode(),
    "/open/Model-1B/resolve/main/model.safetensors.index.json": json.dumps({"metadata": {"total_size": 7_000_000}}).encode(),
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What a hub answers to a request for one file."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012 - one server a test

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        found = FILES.get(self.path)
        if self.path.startswith("/gated/"):
            return self._refuse(403, "GatedRepo")
        if found is None:
            return self._refuse(404, "EntryNotFound" if self.path.startswith("/open/") else "RepoNotFound")
        self.send_response(200)
        for name, value in {"ETag": f'"{len(found)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(found))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(found)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


SCRIPT = """
import json, sys
from kvplan import catalog
from kvplan.errors import KvplanError
try:
    found = catalog.model(sys.argv[1])
    print(json.dumps({"name": found.name, "depth": found.depth, "params": found.declared_params}))
except KvplanError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process whose hub is ours."""
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_of_the_test",
        "HF_HUB_OFFLINE": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    server.shutdown()


def ask(name: str, environment: dict[str, str]) -> dict:
    """What catalog.model says in a process of its own: huggingface_hub reads its settings when it is imported."""
    import os
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_id_is_fetched_once_and_only_its_config_and_index(hub: dict[str, str]) -> None:
    expected = {"name": "Model-1B", "depth": 4, "params": 3_500_000}
    assert ask("open/Model-1B", hub) == expected
    assert all(path.endswith((".json",)) for path, _ in Hub.asked)
    assert {token for _, token in Hub.asked} == {"Bearer hf_of_the_test"}
    before = len(Hub.asked)
    assert ask("open/Model-1B", {**hub, "HF_HUB_OFFLINE": "1"}) == expected  # from the cache
    assert len(Hub.asked) == before


def test_a_gated_model_is_one_sentence(hub: dict[str, str]) -> None:
    told = ask("gated/Model-1B", hub)
    assert told["error"] == "MissingError"
    assert "gated" in told["message"] and "HF_TOKEN" in told["hint"]


def test_a_missing_model_is_one_sentence(hub: dict[str, str]) -> None:
    told = ask("nobody/llama-3.1-9b", hub)
    assert told["error"] == "InputError"
    assert "no such model" in told["message"]
    assert told["hint"].startswith("did you mean llama-3.1-8b")


def test_offline_means_offline(hub: dict[str, str]) -> None:
    told = ask("open/Model-1B", {**hub, "HF_HUB_OFFLINE": "1"})
    assert told["error"] == "InputError" and "HF_HUB_OFFLINE" in told["message"]
    assert Hub.asked == []


def test_a_hub_that_does_not_answer_is_one_sentence(hub: dict[str, str]) -> None:
    told = ask("open/Model-1B", {**hub, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert told["error"] == "MissingError" and "could not be asked" in told["message"]


def test_a_hub_whose_name_leads_nowhere_is_not_asked_again_and_again(hub: dict[str, str]) -> None:
    from time import monotonic

    began = monotonic()
    told = ask("open/Model-1B", {**hub, "HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": "", "HTTPS_PROXY": "", "ALL_PROXY": ""})
    assert told["error"] == "MissingError" and "could not be asked" in told["message"]
    assert monotonic() - began < 20  # the client's own retries take half a minute
