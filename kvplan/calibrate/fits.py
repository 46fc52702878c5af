"""Which rows determine which numbers of the machine. What is fitted is what simulations evaluate: `kvplan.calibrate.predict`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from kvplan.calibrate.findings import Findings, Rows
from kvplan.calibrate.predict import DIRECTIONS, PREDICT, kv_bytes, with_values
from kvplan.calibrate.records import Estimate, Value
from kvplan.calibrate.shapes import shape
from kvplan.fit.least_squares import Fitted, Model, Parameter, direct, fit, ratio, solve
from kvplan.hardware.spec import Curve, Disk, Gpu, Host, Interconnect, Link, Machine
from kvplan.hardware.timing import IN, OUT, disk_Bps
from kvplan.units import GiB, KiB, MiB

# What a number moves from one run to the next on the same server beyond what its own samples show, as a share of it (95 %).
# Two runs on one H100 server: link rates 0.1 and 0.6 %, duplex 1.3 %, elementwise 0.1 to 1 %; two reads of one
# virtual disk an hour apart 13 %, of which the choice of points explains the larger part.
RUN_TO_RUN = {"gpu": 0.01, "link": 0.01, "host": 0.05, "disk": 0.05, "interconnect": 0.05}


def model_of(base: Machine) -> Model[Estimate]:
    """Numbers by dotted path -> what the machine with them predicts for a row."""

    def model(values: dict[str, float]) -> Callable[[Estimate], float]:
        machine = with_values(base, values)
        return lambda row: PREDICT[row.point.op](machine, row.point)

    return model


def one_call(machine: Machine, call_s: float) -> Machine:
    """The machine whose copies are single calls instead of pieces of a batch."""
    return with_values(machine, {"link.copy_s": call_s, "link.small_copy_bytes": 0})


def _copies(rows: Rows, out: Findings) -> None:
    """Rates of both directions, and what one call costs each way; engines that batch pay less for a piece."""
    for way in DIRECTIONS:
        parameters = [Parameter(name="link.copy_s", typical=3e-6), Parameter(name=f"link.{way}_Bps", typical=40e9)]
        measured = rows.of("copy", memory="pinned", direction=way)
        found = fit(model_of(one_call(out.base, 3e-6)), parameters, measured, scale=0.03, source="pinned copies by size")
        out.fits[f"copies {way}"] = found
        out.kept[f"call_{way}_s"] = found.values["link.copy_s"].value
        out.values[f"link.{way}_Bps"] = found.values[f"link.{way}_Bps"]
        out.values.setdefault("link.copy_s", found.values["link.copy_s"])


def _lone_copies(rows: Rows, out: Findings) -> None:
    alone, queued = rows.pairs(rows.of("copy", memory="alone"), rows.of("copy", memory="pinned"), "direction", "bytes")
    small = [(a, q) for a, q in zip(alone, queued, strict=True) if a.point.number("bytes") <= 64 * KiB]
    value, low, high = (
        max(1e-7, statistics.median(extra))
        for extra in ([a.seconds - q.seconds for a, q in small], [a.lo - q.hi for a, q in small], [a.hi - q.lo for a, q in small])
    )
    text = "small copies on an idle stream less the same copies in a row"
    out.values["link.launch_s"] = Fitted(value=value, lo=low, hi=high, source=text)


def _small_copies(rows: Rows, out: Findings) -> None:
    """Per-piece cost of scattered copies, from the smallest that use more than half of the link; below them each takes as long as any."""
    path = "batch" if rows.of("scatter", path="batch") else "loop"
    label = f"scattered pieces, {'cudaMemcpyBatchAsync' if path == 'batch' else 'a loop of copies'}"
    pieces = sorted(rows.of("scatter", path=path), key=lambda r: r.point.number("bytes"))
    rate = out.values["link.h2d_Bps"].value
    slow = [r for r in pieces if r.rate(r.point.number("bytes") * r.point.number("pieces")) < rate / 2]
    fast = [r for r in pieces if r not in slow]

    def each_s(row: Estimate, seconds: float) -> float:
        return seconds / row.point.number("pieces")

    if fast:
        text = f"{label}: the smallest that use the link"
        out.values["link.copy_s"] = direct(
            fast[:1], lambda row, s: max(1e-9, each_s(row, s) - row.point.number("bytes") / rate), source=text
        )
    if slow:
        each = direct(slow, each_s, source=label)
        out.values["link.small_copy_s"] = each
        edge = fast[0].point.number("bytes") if fast else int(each.value * rate)
        floor = slow[-1].point.number("bytes")
        out.values["link.small_copy_bytes"] = Fitted(value=edge, lo=floor, hi=edge, source=label)


def _duplex(rows: Rows, out: Findings) -> None:
    alone, both = rows.pairs(rows.of("copy", memory="pinned"), rows.of("duplex"), "direction", "bytes")
    text = "pinned copies while the other direction is busy against alone"
    out.values["link.duplex_fraction"] = _at_most_one(ratio(alone, both, source=text))


def _at_most_one(found: Fitted) -> Fitted:
    return msgspec.structs.replace(found, value=min(1.0, found.value), lo=min(1.0, found.lo), hi=min(1.0, found.hi))


def _pinning(rows: Rows, out: Findings) -> None:
    out.values["host.pin_s_per_byte"] = direct(
        rows.of("pin"), lambda row, s: s / row.point.number("bytes"), source="torch's pinned allocator"
    )


def _hbm(rows: Rows, out: Findings) -> None:
    out.kept["hbm_read_Bps"] = max(row.rate(row.point.number("bytes")) for row in rows.of("hbm"))


def _gemm(rows: Rows, out: Findings) -> None:
    parameters = [
        Parameter(name="gpu.gemm_overhead_s", typical=3e-6),
        Parameter(name="gpu.gemm_efficiency", typical=0.75, width=0.3, at_most=1.0),
        Parameter(name="gpu.weight_read_efficiency", typical=0.85, width=0.3, at_most=1.0),
        Parameter(name="gpu.gemm_knee", typical=3.0, width=0.7, at_most=30.0),
    ]
    _keep(out, "matrix products", parameters, rows.of("gemm"), scale=0.05, source="bf16 products of model shapes")


def _keep(out: Findings, name: str, parameters: Sequence[Parameter], rows: list[Estimate], *, scale: float, source: str) -> None:
    found = fit(model_of(out.machine), parameters, rows, scale=scale, source=source)
    out.fits[name] = found
    out.values |= found.values


def fastest(rows: list[Estimate]) -> list[Estimate]:
    """Of rows that differ only in `path`, the fastest."""
    best: dict[tuple[tuple[str, Value], ...], Estimate] = {}
    for row in rows:
        key = tuple(sorted((k, v) for k, v in row.point.params.items() if k != "path"))
        if key not in best or row.seconds < best[key].seconds:
            best[key] = row
    return list(best.values())


def _prefill_attention(rows: Rows, out: Findings) -> None:
    measured = rows.of("attention_prefill", dim=128)
    parameters = [
        Parameter(name="gpu.attention_efficiency", typical=0.5, width=0.5, at_most=1.0),
        Parameter(name="gpu.attention_n0_tokens", typical=500.0),
    ]
    flash = [r for r in measured if r.point.text("path") == "flash"]
    _torch(out, solve(model_of(out.machine), parameters, flash, 0.08))
    _keep(out, "prefill attention", parameters, fastest(measured), scale=0.08, source="prefill attention, the faster of torch's kernels")


def _torch(out: Findings, values: dict[str, float]) -> None:
    """What torch's own kernels reach in whole models: for the check on held-out points, kept apart from what engines' kernels do."""
    out.kept |= {f"torch_{path.removeprefix('gpu.')}": value for path, value in values.items()}


def torch_machine(machine: Machine, kept: dict[str, float]) -> Machine:
    """The machine as torch's own kernels use it."""
    return with_values(machine, {name.replace("torch_", "gpu."): value for name, value in kept.items() if name.startswith("torch_")})


def _decode_attention(rows: Rows, out: Findings) -> None:
    """The read rate is the best that large reads reach: torch splits the work over too few blocks at some batches,
    engines' kernels do not. Another shape or batch may still read faster: the interval reaches up to what a plain
    read of GPU memory gets.
    """
    best = fastest(rows.of("attention_decode"))
    large = [r for r in best if kv_bytes(r.point) >= 64 * MiB]
    top = sorted(large, key=lambda r: r.seconds / kv_bytes(r.point))[: max(1, len(large) // 10)]
    text = "decode attention, the best tenth of reads of 64 MiB and more"
    peak_Bps = out.base.gpu.hbm_Bps
    rate = direct(top, lambda row, s: kv_bytes(row.point) / s / peak_Bps, source=text)
    overhead = Parameter(name="gpu.attention_overhead_s", typical=8e-6)
    torch_rate = Parameter(name="gpu.kv_read_efficiency", typical=0.85, width=0.3, at_most=1.0)
    source = "decode attention, the faster of torch's kernels"
    _keep(out, "decode attention", [overhead, torch_rate], best, scale=0.08, source=source)
    _torch(out, {torch_rate.name: out.values[torch_rate.name].value})
    out.values[torch_rate.name] = _at_most_one(msgspec.structs.replace(rate, hi=max(rate.hi, out.kept.get("hbm_read_Bps", 0.0) / peak_Bps)))


def _elementwise(rows: Rows, out: Findings) -> None:
    """Engines fuse: one kernel each for two norms, rotary embedding, cache write and gated activation."""
    small = {r.point.text("what"): r for r in rows.of("elementwise", m=1)}
    norm, other = small["rms_norm"], small["residual"]
    lo, value, hi = (2 * getattr(norm, name) + 3 * getattr(other, name) for name in ("lo", "seconds", "hi"))
    text = "two norms and three single-kernel operations on one token, in a CUDA graph"
    out.values["gpu.layer_overhead_s"] = Fitted(value=value, lo=lo, hi=hi, source=text)
    large = max(rows.of("elementwise", what="residual"), key=lambda r: r.point.number("m"))
    moved = 6.0 * large.point.number("m") * shape(large.point.text("model")).hidden
    text = "addition of two large activations"
    found = direct([large], lambda _, s: moved / s / out.base.gpu.hbm_Bps, source=text)
    out.values["gpu.elementwise_Bps_efficiency"] = _at_most_one(found)


def _sustained(rows: Rows, out: Findings) -> None:
    """Clocks fall when power does not last: prefill after seconds of it against the first tenth of a second."""
    text = "prefill of a whole model, after seconds of it against at once"
    out.values["gpu.sustained_fraction"] = _at_most_one(direct(rows.of("sustained"), lambda row, s: row.notes["first_s"] / s, source=text))


def _whole_model(rows: Rows, out: Findings) -> None:
    """What torch's own, unfused operations cost in whole decoders; kept apart, since engines fuse them."""
    steps = [*rows.of("decode_step"), *rows.of("prefill_step")]
    parameters = [
        Parameter(name="gpu.layer_overhead_s", typical=2e-5),
        Parameter(name="gpu.elementwise_Bps_efficiency", typical=0.4, width=0.7, at_most=1.0),
    ]
    _torch(out, solve(model_of(torch_machine(out.machine, out.kept)), parameters, steps, 0.05))


def _host(rows: Rows, out: Findings) -> None:
    """The intervals reach from the faster to the slower speed that was seen: a host shared with others has both."""
    for op, path, text in (
        ("host_python", "host.python_s", "pickling and hashing a block of 16 tokens in one thread of Python"),
        ("launch", "host.launch_s", "launching the kernels of one small layer from torch"),
    ):
        for row in rows.of(op):
            seen = (*row.block_medians, row.notes.get("fast_s", row.seconds), row.notes.get("slow_s", row.seconds))
            out.values[path] = Fitted(value=row.seconds, lo=min(seen), hi=max(seen), source=text)


def _mapped(rows: Rows, out: Findings) -> None:
    for way, path in (("h2d", "link.mapped_read_Bps"), ("d2h", "link.mapped_write_Bps")):
        found = direct(
            rows.of("mapped", direction=way), lambda r, s: r.point.number("bytes") / s, source="a Triton kernel on mapped host memory"
        )
        out.values[path] = found


def _collectives(rows: Rows, out: Findings) -> None:
    """A curve for each operation and number of GPUs; rate and latency of one message stand for what has none."""
    taken = rows.of("collective")
    if not taken:
        return  # one GPU
    curves: dict[tuple[str, int], list[Estimate]] = {}
    for row in taken:
        curves.setdefault((row.point.text("what"), row.point.number("gpus")), []).append(row)
    for of in curves.values():
        of.sort(key=lambda row: row.point.number("bytes"))
    out.curves = tuple(
        Curve(
            op=op,  # type: ignore[arg-type]
            gpus=gpus,
            size_bytes=tuple(float(row.point.number("bytes")) for row in of),
            seconds=tuple(row.seconds for row in of),
        )
        for (op, gpus), of in sorted(curves.items())
    )
    small, *_, large = curves["send", 2]
    text = "messages from one GPU to another"
    out.values["interconnect.latency_s"] = direct([small], lambda _, s: s, source=text)
    out.values["interconnect.Bps"] = direct([large], lambda row, s: row.point.number("bytes") / s, source=text)


def _disk_reads(rows: Rows, out: Findings) -> None:
    reads = rows.of("disk_read")
    top = max(r.rate(r.point.number("bytes")) for r in reads)
    parameters = [
        Parameter(name="disk.latency_s", typical=1e-4),
        Parameter(name="disk.stream_Bps", typical=top, width=0.7, at_most=30 * top),
        Parameter(name="disk.read_Bps", typical=top, width=0.3),
        Parameter(name="disk.read_iops", typical=2e5, width=2.0),
        Parameter(name="disk.queue_knee", typical=3.0, width=0.35, at_most=20.0),
    ]
    text = f"direct random reads into {reads[0].point.text('pages')} buffers, by block and threads"
    _keep(out, "disk reads", parameters, reads, scale=0.08, source=text)


def _disk_writes(rows: Rows, out: Findings) -> None:
    """Of what random writes reach and what lasts, the lower."""
    writes, lasting = rows.of("disk_write"), rows.of("disk_sustained", what="write")
    top = max(r.rate(r.point.number("bytes")) for r in writes)
    parameters = [Parameter(name="disk.write_latency_s", typical=3e-5, width=1.5), Parameter(name="disk.write_Bps", typical=top, width=0.3)]
    _keep(out, "disk writes", parameters, writes, scale=0.08, source="direct random writes, by block and threads")
    if lasting and lasting[0].notes["sustained_Bps"] < out.values["disk.write_Bps"].value:
        found = direct(lasting, lambda row, s: row.point.number("bytes") / s, source="direct writes, sustained")
        out.values["disk.write_Bps"] = found


def _disk_both_ways(rows: Rows, out: Findings) -> None:
    """Mean over both directions of the rate beside the other against the rate alone at the same depth."""
    disk = out.machine.disk

    def fraction(row: Estimate, seconds: float) -> float:
        size, depth = row.point.number("bytes"), row.point.number("threads") / 2
        return (size / seconds / disk_Bps(disk, IN, size, depth) + row.notes["write_Bps"] / disk_Bps(disk, OUT, size, depth)) / 2

    text = "random reads beside as many writes, against each alone"
    out.values["disk.duplex_fraction"] = _at_most_one(direct(rows.of("disk_mixed"), fraction, source=text))


STEPS: tuple[tuple[str, Callable[[Rows, Findings], None]], ...] = (
    ("copies", _copies),
    ("lone copies", _lone_copies),
    ("scattered copies", _small_copies),
    ("both directions", _duplex),
    ("pinning", _pinning),
    ("mapped memory", _mapped),
    ("collectives", _collectives),
    ("host", _host),
    ("GPU memory", _hbm),
    ("matrix products", _gemm),
    ("decode attention", _decode_attention),
    ("prefill attention", _prefill_attention),
    ("elementwise", _elementwise),
    ("sustained compute", _sustained),
    ("whole model", _whole_model),
    ("disk reads", _disk_reads),
    ("disk writes", _disk_writes),
    ("disk, both directions", _disk_both_ways),
)


def fit_all(rows: Iterable[Estimate], gpu: Gpu) -> Findings:
    """Fit everything that the rows determine; what they do not is listed in `missed` with the reason.

    `gpu` supplies the peaks.
    """
    have, out = Rows(rows), Findings(base=blank(gpu))
    for name, step in STEPS:
        try:
            step(have, out)
        except (ValueError, KeyError, StopIteration, IndexError, ZeroDivisionError) as error:
            out.missed[name] = f"not enough was measured ({type(error).__name__}: {error})"
    out.values = {path: over_runs(path, found) for path, found in out.values.items()}
    return out


def blank(gpu: Gpu) -> Machine:
    """A machine that has this GPU, and nothing that is known of the rest."""
    link, disk = Link(h2d_Bps=1e10, d2h_Bps=1e10), Disk(capacity_bytes=GiB, read_Bps=1e9, write_Bps=1e9)
    joined = Interconnect(Bps=1e10, latency_s=1e-5)
    return Machine(name="blank", title="", gpu=gpu, link=link, host=Host(memory_bytes=GiB), disk=disk, interconnect=joined)


def over_runs(path: str, found: Fitted) -> Fitted:
    """The number at a dotted path with what differs from run to run added to its interval, in quadrature on logarithms.

    Sizes, which are points of a grid, stay as they are.
    """
    floor = RUN_TO_RUN[path.partition(".")[0]]
    if path.endswith("_bytes") or found.lo <= 0:
        return found
    low, high = math.hypot(math.log(found.value / found.lo), floor), math.hypot(math.log(found.hi / found.value), floor)
    return msgspec.structs.replace(found, lo=found.value * math.exp(-low), hi=found.value * math.exp(high))
