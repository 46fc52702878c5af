"""The ways of `kvplan validate`: replay a trace, run the designed probe and fit, or read another tool's results."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kvplan.errors import InputError
from kvplan.live import fitting, probe, result_files, sent
from kvplan.live.metrics import Served
from kvplan.live.records import Replay
from kvplan.live.validate import Attempt, Say, ValidateQuestion, ask, judged, tried
from kvplan.live.world import blank_trace, scenario_of, token_bytes, unlearned
from kvplan.request import Request
from kvplan.results.validate import ValidateResult
from kvplan.scenario import Scenario
from kvplan.sim.simulate import gpu_pool_bytes, opened
from kvplan.traces.write import convert

BUDGET_S = 150.0
"""Seconds that the designed probe may take as predicted; with warm-up and pauses about three minutes."""
LONGEST_TOKENS = 33_000


def run(question: ValidateQuestion, say: Say, *, fit: str = "", results: str = "", seed: int = 0) -> ValidateResult:
    """Validate as asked. Raises InputError where the server, the trace or the file of results cannot be used."""
    if results:
        if fit:
            raise InputError("--fit measures with its own probe", hint="leave --results out")
        return _from_results(question, results)
    if question.source and not fit:
        return judged(question, tried(question, say))
    with _designed(question, say) as (probing, plan):
        trial = tried(probing, say)
        if not fit or trial.run.interrupted or trial.run.stopped:
            return judged(probing, trial)
        fitted, scenario = fitting.fit(trial, plan, seed, say)
        written = fitting.written(fitted, scenario, fit) if fitted.accepted else fitted
        result = judged(probing, msgspec.structs.replace(trial, scenario=scenario))
    return msgspec.structs.replace(result, fitted=written)


@contextmanager
def _designed(question: ValidateQuestion, say: Say) -> Iterator[tuple[ValidateQuestion, probe.Design]]:
    """The question with the designed probe as its trace."""
    served, _ = asyncio.run(ask(question))
    with tempfile.TemporaryDirectory(prefix="kvplan-") as folder:
        path = Path(folder) / "probe.jsonl"
        source = question.source if question.source.endswith(".toml") else str(blank_trace(Path(folder)))
        plan = _plan(scenario_of(source, question.given, served)[0], served)
        convert(plan.requests, path, block_tokens=probe.BLOCK, name="probe")
        say(f"a designed probe of {len(plan.probes)} groups of requests: alone, hits, bursts, batches of decodes")
        yield msgspec.structs.replace(question, source=str(path)), plan


def _plan(scenario: Scenario, served: Served) -> probe.Design:
    """The probe that this server can take."""

    def seconds_of(requests: Sequence[Request]) -> float:
        timed = [msgspec.structs.replace(request, index=at, arrival_s=0.0) for at, request in enumerate(requests)]
        _, columns = sent.run(scenario, timed, probe.BLOCK)
        return float(max(columns["e2e_s"]))

    context = min(limit for limit in (served.context_tokens, scenario.model.max_context_tokens, LONGEST_TOKENS) if limit)
    pool_tokens = served.pool_tokens or int((scenario.tiers.gpu_kv_bytes or gpu_pool_bytes(scenario)) / token_bytes(scenario))
    tier = scenario.tiers.cpu_bytes > 0
    return probe.design(context, pool_tokens, scenario.engine.max_batch, seconds_of, BUDGET_S, tier=tier)


def _from_results(question: ValidateQuestion, path: str) -> ValidateResult:
    """Another tool's measurement as the measured side; the server is asked what it is where it can be reached."""
    tool, answers = result_files.read(path)
    before = result_files.earlier(path, tool)
    remarks = [] if before else [f"measured by {tool}: its own lateness is not known"]
    if before is not None and before.verdict in ("refused", "incomplete", "interrupted"):
        remarks.append(f"the earlier run gave no full verdict: {before.reason}")
    try:
        served, _ = asyncio.run(ask(question))
    except InputError as error:
        served = Served(unknown=["what it is: it could not be asked"])
        remarks.append(error.message)
    with tempfile.TemporaryDirectory(prefix="kvplan-") as folder:
        source = question.source
        if not source:
            source = str(Path(folder) / "lengths.jsonl")
            convert(result_files.without_trace(answers), source, block_tokens=0, name="lengths")
            remarks.append("without the trace nothing is shared: every hit is a surprise")
        scenario, known = scenario_of(source, question.given, served)
        trace = opened(scenario)
        requests = result_files.beside(list(trace), answers, tool)
        trial = Attempt(
            scenario=scenario, requests=requests, block_tokens=trace.block_tokens, run=Replay(answers=answers, lateness=[]), known=known,
            counted={}, seconds=max(answer.end_s for answer in answers), remarks=[text for text in (*remarks, unlearned(known)) if text],
            warm_caches=True,
        )  # fmt: skip
        result = judged(msgspec.structs.replace(question, source=source), trial)
    return msgspec.structs.replace(result, client=before.client) if before is not None else result
