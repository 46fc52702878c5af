"""A run says when its machine was made up, or asked for more than was measured."""

import msgspec
import pytest

from kvplan import catalog
from kvplan.provenance import Source
from kvplan.sim.outcome.summary import machine_warnings

MACHINE = catalog.machine("a100-sxm-80gb")
DOMAIN = {"domain": {"attention_prefill_new": [128, 32768], "attention_prefill_context": [0, 98304]}}


def test_a_catalog_machine_needs_no_warning() -> None:
    assert machine_warnings(MACHINE, 10**6) == []


def test_fake_numbers_are_counted() -> None:
    made_up = msgspec.structs.replace(MACHINE, provenance={"link.h2d_Bps": Source(kind="fake"), "gpus": Source(kind="assumed")})
    assert machine_warnings(made_up, 1) == ["a100-sxm-80gb: 1 of its numbers are fake: no hardware was measured"]


@pytest.mark.parametrize(("longest", "warned"), [(131072, False), (131073, True)])
def test_prompts_beyond_the_measured_contexts(longest: int, warned: bool) -> None:
    # 98,304 tokens before and 32,768 new ones are the longest that was measured: 131,072.
    calibrated = msgspec.structs.replace(MACHINE, calibration=DOMAIN)
    assert bool(machine_warnings(calibrated, longest)) is warned
