"""When loads and stores begin, by version of vLLM."""

from __future__ import annotations

import pytest

from kvplan.request import Request
from tests.sim.runs import documents, run

HOST = {"machine.host.python_s": 2.7e-6, "machine.host.launch_s": 396e-6}


def end_s(version: str, output: int) -> float:
    """Seconds from the first token to the last of a cold prompt of 8,192 tokens, whose store of 1 GiB takes 0.21 s at 5 GB/s."""
    rows = documents(1, 8192, output=output)
    _, world = run(rows, version=version, gpu_kv="8GiB", cpu="8GiB", sets={**HOST, "machine.link.d2h_Bps": 5e9})
    found = world.recorder.arrays()
    return float(found["e2e_s"][0] - found["ttft_s"][0])


@pytest.mark.parametrize(("version", "waits"), [("0.24.0", 2), ("0.33.0", 3)])
def test_which_token_waits_for_the_store_of_the_prompt(version: str, waits: int) -> None:
    # The store begins when the prompt's step ends, or one step later: the second token waits for it, or the third.
    assert end_s(version, waits) > 0.2
    assert end_s(version, waits - 1) < 0.05


def load_s(version: str) -> float:
    """Seconds that a hit of 8,192 tokens loads which arrives while prompts of 8,192 tokens are computed one after the other."""
    rows = documents(3, 8192, every_s=5.0)  # in a pool of two prompts the last pushes out the first
    busy = [
        Request(index=3 + at, arrival_s=20.0, prompt_tokens=8192, output_tokens=1, blocks=tuple(range(first, first + 512)))
        for at, first in enumerate(range(10**6, 7 * 10**6, 10**6))
    ]
    hit = Request(index=9, arrival_s=20.05, prompt_tokens=8208, output_tokens=1, blocks=(*rows[0].blocks, 10**9), priority=-1)
    _, world = run([*rows, *busy, hit], version=version, gpu_kv="2.2GiB", cpu="32GiB", sets={**HOST, "engine.scheduling": "priority"})
    found = world.recorder.arrays()
    assert found["cpu_hit_tokens"][9] == 8192
    return float(found["load_s"][9])


def test_a_load_begins_at_once_or_after_the_step_that_it_is_scheduled_with() -> None:
    # Up to 0.26 it takes its own time beside the step in progress; from 0.33 on the step of 0.2 s in progress has to end before it begins.
    early, late = load_s("0.24.0"), load_s("0.33.0")
    assert early < 0.05
    assert late - early > 0.1
