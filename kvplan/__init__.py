"""kvplan: when to move KV cache out of GPU memory, where to, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvplan.engine import EngineSpec
    from kvplan.hardware import Machine
    from kvplan.model import ModelSpec
    from kvplan.results.simulate import SimResult
    from kvplan.results.size import SizeResult

__version__ = "0.1.0"


def size(
    model: str | ModelSpec, *, engine: str | EngineSpec = "vllm", machine: str | Machine | None = None, **options: Any
) -> SizeResult:
    """Sizes of a model by catalog name, path or record; the options are those of `kvplan.sizing.answer.ask`."""
    from kvplan import catalog
    from kvplan.sizing.answer import ask

    return ask(
        catalog.model(model) if isinstance(model, str) else model,
        engine=catalog.engine(engine) if isinstance(engine, str) else engine,
        machine=catalog.machine(machine) if isinstance(machine, str) else machine,
        **options,
    )


def simulate(source: str, **options: Any) -> SimResult:
    """Replay a trace or a scenario file; the options are those of `kvplan.scenario.load`: model, machine, engine, tiers, run, sets."""
    from kvplan import scenario
    from kvplan.sim.run import simulate as replay

    return replay(scenario.load(source, **options))[0]
