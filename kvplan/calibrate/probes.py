"""The probes as one flat list: what each measures, on which points, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import msgspec

from kvplan.calibrate.records import Family, Point, point
from kvplan.calibrate.sample import Plan
from kvplan.calibrate.shapes import SHAPES, Shape
from kvplan.errors import InputError, did_you_mean
from kvplan.units import GiB, KiB, MiB


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """How thorough a run is."""

    name: str
    blocks: int
    max_blocks: int
    samples: int
    budget_scale: float
    limit_s: float  # after this each remaining probe gets one block
    file_bytes: int  # of the disk test file at most


MODES: dict[str, Mode] = {
    "quick": Mode(name="quick", blocks=2, max_blocks=3, samples=3, budget_scale=0.3, limit_s=80.0, file_bytes=4 * GiB),
    "standard": Mode(name="standard", blocks=6, max_blocks=8, samples=3, budget_scale=1.0, limit_s=360.0, file_bytes=16 * GiB),
    "full": Mode(name="full", blocks=6, max_blocks=40, samples=5, budget_scale=4.0, limit_s=1200.0, file_bytes=32 * GiB),
}


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What the choice of points depends on."""

    mode: Mode
    model: Shape
    pages: str = "huge"  # disk buffers: pinned, as engines use, when there is a GPU; else on 2 MiB pages

    @property
    def quick(self) -> bool:
        return self.mode.name == "quick"

    @property
    def full(self) -> bool:
        return self.mode.name == "full"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that calibration finds out."""

    name: str
    family: Family
    title: str
    points: Callable[[Context], list[Point]]
    tolerance: float = 0.02
    budget_s: float = 15.0  # in standard mode; the first block always finishes
    blocks: int = 0  # 0: the mode's

    def plan(self, mode: Mode) -> Plan:
        """Blocks, samples and time under a mode."""
        blocks = min(self.blocks, mode.blocks) if self.blocks else mode.blocks
        return Plan(
            blocks=blocks,
            max_blocks=max(blocks, mode.max_blocks if not self.blocks else blocks),
            samples=mode.samples,
            tolerance=self.tolerance,
            budget_s=self.budget_s * mode.budget_scale,
        )


def _pin(context: Context) -> list[Point]:
    return [point("pin", bytes=256 * MiB if context.quick else 512 * MiB)]


_POWERS = [4 * KiB * 4**i for i in range(10)]  # 4 KiB .. 1 GiB


def _copies(context: Context) -> list[Point]:
    largest = 256 * MiB if context.quick else GiB
    sizes = {"pinned": sorted([*_POWERS, 24 * KiB, 28 * KiB, 32 * KiB, 48 * KiB]), "alone": _POWERS[:5]}
    return [
        point("copy", direction=direction, memory=memory, bytes=size)
        for direction, memory in product(("h2d", "d2h"), sizes)
        for size in sizes[memory]
        if size <= largest
    ]


def _scatter(_: Context) -> list[Point]:
    """1024 pieces to the GPU: as many as one call of an engine copies at a time."""
    sizes = [4 * KiB, 8 * KiB, 16 * KiB, 24 * KiB, 32 * KiB, 64 * KiB, 256 * KiB, MiB]
    return [point("scatter", direction="h2d", path=path, bytes=size, pieces=1024) for path, size in product(("loop", "batch"), sizes)]


def _duplex(context: Context) -> list[Point]:
    sizes = [256 * MiB] if context.quick else [64 * MiB, 256 * MiB]
    return [point("duplex", direction=d, bytes=size) for d, size in product(("h2d", "d2h"), sizes)]


def _mapped(_: Context) -> list[Point]:
    return [point("mapped", direction=d, bytes=256 * MiB) for d in ("h2d", "d2h")]


def _hbm(context: Context) -> list[Point]:
    return [point("hbm", bytes=size) for size in ([GiB] if context.quick else [GiB, 4 * GiB])]


def _collectives(context: Context) -> list[Point]:
    """What engines use over 2, 4 and 8 GPUs, and messages from one to another; those beyond the server's GPUs are waived."""
    sizes = [8 * KiB, 512 * KiB, 32 * MiB] if context.quick else [8 * KiB * 4**i for i in range(8)]
    over = [point("collective", what=what, gpus=n, bytes=size) for what, n, size in product(COLLECTIVES, (2, 4, 8), sizes)]
    return over + [point("collective", what="send", gpus=2, bytes=size) for size in sizes]


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


def _shapes(context: Context) -> list[Shape]:
    return list({context.model.name: context.model, **({} if context.quick else SHAPES)}.values())


def _gemm(context: Context) -> list[Point]:
    tokens = [1, 8, 64, 512, 2048, 8192] if context.quick else _TOKENS
    return [
        point("gemm", model=shape.name, what=what, m=m, n=n, k=k)
        for shape in _shapes(context)
        for (what, (n, k)), m in product(shape.products().items(), tokens)
    ]


def _attention_shape(shape: Shape) -> dict[str, int]:
    return {"heads": shape.heads, "kv_heads": shape.kv_heads, "dim": shape.head_dim}


def _attention_prefill(context: Context) -> list[Point]:
    news = [512, 8192] if context.quick else [128, 512, 2048, 4096, 8192]
    contexts = [0, 32768] if context.quick else [0, 8192, 32768, 98304]
    points = [
        point("attention_prefill", path=path, new=new, context=before, **_attention_shape(shape))
        for shape in _shapes(context)
        for path, new, before in product(("flash", "cudnn"), news, contexts)
        if shape is context.model or before in (0, 32768)
    ]
    return points if context.quick else [*points, *_long_prefills(context.model)]


def _long_prefills(shape: Shape) -> list[Point]:
    """Long prompts at once: without them the efficiency of attention cannot be told from its overhead."""
    return [
        point("attention_prefill", path=path, new=new, context=0, **_attention_shape(shape))
        for path, new in product(("flash", "cudnn"), (16384, 32768))
    ]


def _attention_decode(context: Context) -> list[Point]:
    """Grids over the model's shape; of the others a few, also in quick mode: the best read rate is another shape's."""
    batches = [1, 32] if context.quick else [1, 8, 32, 128]
    contexts = [1024, 16384] if context.quick else [512, 1024, 4096, 16384, 65536]
    others = [(32, 16384)] if context.quick else list(product(batches, (1024, 16384)))
    return [
        point("attention_decode", path=path, batch=batch, context=before, **_attention_shape(shape))
        for shape in {context.model.name: context.model, **SHAPES}.values()
        for path, batch, before in product(("flash", "matmul"), batches, contexts)
        if (shape is context.model or (batch, before) in others) and batch * before <= 2**21 + 2**18
    ]


def _elementwise(context: Context) -> list[Point]:
    return [point("elementwise", what=what, m=m, model=context.model.name) for what, m in product(("rms_norm", "residual"), (1, 8192))]


def _decode_step(context: Context) -> list[Point]:
    pairs = [(1, 1024), (32, 1024)] if context.quick else product((1, 8, 32, 128), (512, 4096, 16384))
    return [point("decode_step", model=context.model.name, batch=batch, context=before) for batch, before in pairs]


def _prefill_step(context: Context) -> list[Point]:
    pairs = [(2048, 0), (8192, 0)]
    if not context.quick:
        pairs += [(512, 0), (512, 8192), (512, 32768), (2048, 32768), (8192, 8192), (8192, 32768), (8192, 98304)]
    return [point("prefill_step", model=context.model.name, new=new, context=before) for new, before in pairs]


def _sustained(context: Context) -> list[Point]:
    span_s = 3.0 if context.quick else 20.0 if context.full else 6.0
    return [point("sustained", model=context.model.name, new=8192, context=0, span_s=span_s)]


def _launch(_: Context) -> list[Point]:
    return [point("launch", span_s=1.0)]


def _python(_: Context) -> list[Point]:
    return [point("host_python", hashes=512, span_s=1.0)]


def _disk(op: str, context: Context, size: int, threads: int) -> Point:
    return point(op, bytes=size, threads=threads, pages=context.pages)


def _disk_write(context: Context) -> list[Point]:
    sizes = [64 * KiB, MiB] if context.quick else [64 * KiB, 256 * KiB, MiB, 4 * MiB, 16 * MiB]
    threads = [1, 16] if context.quick else [1, 4, 16]
    return [_disk("disk_write", context, s, t) for s, t in product(sizes, threads)]


def _disk_read(context: Context) -> list[Point]:
    if context.quick:
        sizes, threads = [4 * KiB, 64 * KiB, MiB, 16 * MiB], [1, 16]
    else:
        sizes = [4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, MiB, 2 * MiB, 4 * MiB, 16 * MiB]
        threads = [1, 2, 4, 8, 16, 32, 64] if context.full else [1, 4, 16, 32]
    return [_disk("disk_read", context, s, t) for s, t in product(sizes, threads)]


def _disk_again(_: Context) -> list[Point]:
    return [point("disk_again", bytes=256 * MiB)]


def _disk_mixed(context: Context) -> list[Point]:
    return [_disk("disk_mixed", context, size, 16) for size in ([4 * MiB] if context.quick else [MiB, 4 * MiB])]


def _disk_sustained(context: Context) -> list[Point]:
    span_s = 4.0 if context.quick else 60.0 if context.full else 15.0
    return [point("disk_sustained", what=what, bytes=4 * MiB, threads=16, pages=context.pages, span_s=span_s) for what in ("read", "write")]


PROBES: tuple[Probe, ...] = (
    Probe(name="python", family="host", title="one thread of Python", points=_python, tolerance=0.05, budget_s=4),
    Probe(name="launch", family="host", title="launching kernels", points=_launch, tolerance=0.05, budget_s=4),
    Probe(name="copies", family="gpu", title="copies by size and direction", points=_copies, budget_s=22),
    Probe(name="scattered", family="gpu", title="scattered block copies", points=_scatter, tolerance=0.05, budget_s=20),
    Probe(name="duplex", family="gpu", title="both directions at once", points=_duplex, budget_s=8),
    Probe(name="mapped", family="gpu", title="a kernel on mapped host memory", points=_mapped, tolerance=0.05, budget_s=12),
    Probe(name="hbm", family="gpu", title="GPU memory", points=_hbm, budget_s=5),
    Probe(name="collectives", family="gpu", title="collectives between GPUs", points=_collectives, tolerance=0.1, budget_s=20, blocks=3),
    Probe(name="gemm", family="compute", title="matrix products of model shapes", points=_gemm, budget_s=35),
    Probe(name="prefill_attention", family="compute", title="prefill attention", points=_attention_prefill, budget_s=25),
    Probe(name="decode_attention", family="compute", title="decode attention", points=_attention_decode, budget_s=25),
    Probe(name="elementwise", family="compute", title="norms and residuals", points=_elementwise, budget_s=4),
    Probe(name="decode_step", family="compute", title="decode steps of the whole model", points=_decode_step, budget_s=25),
    Probe(name="prefill_step", family="compute", title="prefill of the whole model", points=_prefill_step, budget_s=25),
    Probe(name="sustained", family="compute", title="prefill for seconds on end", points=_sustained, budget_s=1, blocks=2),
    Probe(name="pinning", family="gpu", title="cost of pinning", points=_pin, tolerance=0.1, budget_s=6, blocks=3),
    Probe(name="disk_write", family="disk", title="disk writes", points=_disk_write, tolerance=0.05, budget_s=25, blocks=4),
    Probe(name="disk_read", family="disk", title="disk reads", points=_disk_read, tolerance=0.05, budget_s=60),
    Probe(name="disk_again", family="disk", title="reading a span again", points=_disk_again, tolerance=0.2, budget_s=4, blocks=2),
    Probe(name="disk_mixed", family="disk", title="disk reads beside writes", points=_disk_mixed, tolerance=0.1, budget_s=8, blocks=3),
    Probe(name="disk_sustained", family="disk", title="disk, burst and sustained", points=_disk_sustained, budget_s=1, blocks=1),
)


def mode(name: str) -> Mode:
    """A mode by name. Raises InputError with the nearest names."""
    if name not in MODES:
        raise InputError(f"no mode named {name!r}", hint=did_you_mean(name, MODES))
    return MODES[name]


def probes(only: str = "") -> list[Probe]:
    """The probes of a family (`gpu`, `disk`, `compute`, `host`), one by its name, or all. Raises InputError for another word."""
    parts = {probe.family for probe in PROBES} | {probe.name for probe in PROBES}
    if only and only not in parts:
        raise InputError(f"--only {only}: no such part", hint=did_you_mean(only, parts))
    return [probe for probe in PROBES if not only or only in (probe.family, probe.name)]


def parts_of(chosen: Sequence[Probe]) -> str:
    """What some probes measure: their family, or the one probe's title."""
    return chosen[0].title if len(chosen) == 1 else ", ".join(sorted({probe.family for probe in chosen}))
