"""Seconds that a machine predicts for a point: `kvplan.hardware.timing` and `kvplan.step_time` on the point's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kvplan.calibrate.records import Point
from kvplan.calibrate.shapes import Shape, shape
from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec
from kvplan.hardware.spec import Gpu, Machine
from kvplan.hardware.timing import IN, OUT, copies_s, disk_Bps, gemm_s, kv_read_s, pair_flops, prefill_attention_s
from kvplan.model import Ffn, Layers, ModelSpec
from kvplan.step_time import StepCost

DIRECTIONS = {"h2d": IN, "d2h": OUT}
_NO_ENGINE = EngineSpec(name="none", version="0")  # no overheads: the GPU's work alone


def with_values(machine: Machine, values: Mapping[str, float]) -> Machine:
    """The machine with other numbers at dotted paths such as `gpu.gemm_knee`."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        part, _, name = path.partition(".")
        parts.setdefault(part, {})[name] = round(value) if name.endswith("_bytes") else value
    return msgspec.structs.replace(machine, **{part: msgspec.structs.replace(getattr(machine, part), **new) for part, new in parts.items()})


def gemm_traffic(p: Point) -> tuple[float, float]:
    """(FLOPs, bytes) of an m x k by k x n product in bf16: weights, inputs and outputs move once each."""
    m, n, k = p.number("m"), p.number("n"), p.number("k")
    return 2.0 * m * n * k, 2.0 * (n * k + m * k + m * n)


def kv_bytes(p: Point) -> float:
    """Bytes of K and V in bf16 that decode attention reads."""
    return 4.0 * p.number("batch") * p.number("context") * p.number("kv_heads") * p.number("dim")


def attention_s(gpu: Gpu, p: Point) -> float:
    """Seconds of one layer's attention over `new` tokens after `context`."""
    pair = p.number("heads") * pair_flops(p.number("dim"), p.number("dim"))
    return gpu.attention_overhead_s + prefill_attention_s(gpu, p.number("new"), p.number("context"), [(pair, 0)])


def model_of(dims: Shape) -> ModelSpec:
    """A shape as the step model takes it."""
    mixer = sum(n * k for name, (n, k) in dims.layer_products().items() if name in ("qkv", "o"))
    attention = Layers(
        kind="full",
        count=dims.layers,
        query_heads=dims.heads,
        kv_heads=dims.kv_heads,
        k_dim=dims.head_dim,
        v_dim=dims.head_dim,
        params=mixer,
    )
    return ModelSpec(
        name=dims.name,
        depth=dims.layers,
        hidden=dims.hidden,
        vocab=dims.vocab,
        layers=(attention,),
        ffn=(Ffn(count=dims.layers, width=dims.ffn),),
        max_context_tokens=2**20,
    )


def _cost(machine: Machine, p: Point) -> StepCost:
    bursts = with_values(machine, {"gpu.sustained_fraction": 1.0})  # points are taken in bursts
    return StepCost(Deployment(model=model_of(shape(p.text("model"))), engine=_NO_ENGINE, server=bursts))


def decode_step_s(machine: Machine, p: Point) -> float:
    """Seconds of one decode step of `batch` sequences of `context` tokens."""
    cost, batch = _cost(machine, p), p.number("batch")
    return cost.busy_s([], batch, cost.decode_attention_s([p.number("context")] * batch), batch)


def prefill_step_s(machine: Machine, p: Point) -> float:
    """Seconds of one prefill chunk of one sequence."""
    cost = _cost(machine, p)
    return cost.busy_s([(p.number("new"), p.number("context"))], 0, 0.0, 1)


def _disk_s(direction: int) -> Callable[[Machine, Point], float]:
    return lambda m, p: p.number("bytes") / disk_Bps(m.disk, direction, p.number("bytes"), p.number("threads"))


PREDICT: dict[str, Callable[[Machine, Point], float]] = {
    "copy": lambda m, p: copies_s(m.link, DIRECTIONS[p.text("direction")], p.number("bytes"), 1),
    "gemm": lambda m, p: gemm_s(m.gpu, *gemm_traffic(p)),
    "attention_prefill": lambda m, p: attention_s(m.gpu, p),
    "attention_decode": lambda m, p: m.gpu.attention_overhead_s + kv_read_s(m.gpu, kv_bytes(p)),
    "decode_step": decode_step_s,
    "prefill_step": prefill_step_s,
    "disk_read": _disk_s(IN),
    "disk_write": _disk_s(OUT),
}
"""Operation of a point -> seconds that a machine predicts for it."""
