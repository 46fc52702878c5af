"""kvplan: when to move KV cache out of GPU memory, where to, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvplan.engine.spec import EngineSpec
    from kvplan.hardware.spec import Machine
    from kvplan.model import ModelSpec
    from kvplan.results.plan import PlanResult
    from kvplan.results.simulate import SimResult
    from kvplan.results.size import SizeResult

__version__ = "0.1.0"


def size(model: str | ModelSpec, *, engine: str | EngineSpec = "vllm", machine: str | Machine | None = None, **options: Any) -> SizeResult:
    """Sizes of a model by catalog name, path or record; the options are those of `kvplan.sizing.answer.ask`."""
    from kvplan import catalog
    from kvplan.sizing.answer import ask

    return ask(
        catalog.model(model) if isinstance(model, str) else model,
        engine=catalog.engine(engine) if isinstance(engine, str) else engine,
        machine=catalog.machine(machine) if isinstance(machine, str) else machine,
        **options,
    )


def simulate(
    source: str | Path,
    *,
    model: str | None = None,
    machine: str | None = None,
    engine: str | None = None,
    sets: Mapping[str, object] | None = None,
    **options: Any,
) -> SimResult:
    """Replay a trace or a scenario file, as `kvplan simulate` does.

    Options are those of the command (`gpu_kv="8GiB"`, `cpu`, `disk`, `policy`, `speedup`, `limit`, `max_input`,
    `target`, `seed`); `sets` maps the path of any field to its value. Raises InputError for what cannot be used.
    """
    from kvplan import scenario
    from kvplan.sim.simulate import simulate as replay

    changed = {**(sets or {}), **({"engine.offload.policy": options.pop("policy")} if "policy" in options else {})}
    if "max_input" in options:
        options["max_input_tokens"] = options.pop("max_input")
    wanted = scenario.load(
        str(source),
        model=model,
        machine=machine,
        engine=engine,
        tiers={name: options.pop(name) for name in scenario.SIZES if name in options},
        run=options,
        sets=[f"{path}={value}" for path, value in changed.items()],
    )
    return replay(wanted)[0]


def plan(
    source: str | Path,
    *,
    model: str | None = None,
    machine: str | None = None,
    engine: str | None = None,
    target: str = "",
    gpu_kv: str | None = None,
    sets: Mapping[str, object] | None = None,
    emit: str = "",
    **options: Any,
) -> PlanResult:
    """When to offload, where to and how much, as `kvplan plan` does; options are those of `kvplan.planning.plan.plan`."""
    from kvplan import scenario
    from kvplan.deploy.emit import configured
    from kvplan.planning.objective import parse_target
    from kvplan.planning.plan import plan as answer

    wanted = scenario.load(
        str(source),
        model=model,
        machine=machine,
        engine=engine,
        tiers={"gpu_kv": gpu_kv},
        sets=[f"{path}={value}" for path, value in (sets or {}).items()],
    )
    result = answer(wanted, target=parse_target(target or wanted.run.target), **options)
    return configured(result, emit) if emit else result
