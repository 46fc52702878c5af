"""Which rows determine which numbers of the machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import msgspec

from kvplan.calibrate import predict
from kvplan.calibrate.datasheet import peak
from kvplan.calibrate.records import Row, Value
from kvplan.errors import MissingError
from kvplan.fit.least_squares import Fit, Fitted, Parameter, direct, fit, over_runs, ratio
from kvplan.hardware.spec import Gpu
from kvplan.units import GiB, KiB, MiB


class Findings(msgspec.Struct, kw_only=True):
    """Fitted numbers by their dotted place in the machine, quality of each fit, and numbers that only calibration
    keeps.
    """

    values: dict[str, Fitted] = {}
    fits: dict[str, Fit] = {}
    kept: dict[str, float] = {}
    missed: dict[str, str] = {}


class Rows:
    """Rows of a run by operation."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.all = list(rows)

    def of(self, op: str, **wanted: Value) -> list[Row]:
        """Rows of an operation whose parameters equal the wanted ones."""
        return [r for r in self.all if r.point.op == op and all(r.point.params.get(k) == v for k, v in wanted.items())]

    def pairs(self, above: list[Row], below: list[Row], *names: str) -> tuple[list[Row], list[Row]]:
        """Rows of both lists that agree in the named parameters."""
        by = {tuple(r.point.params[n] for n in names): r for r in below}
        both = [(r, by[key]) for r in above if (key := tuple(r.point.params[n] for n in names)) in by]
        return [a for a, _ in both], [b for _, b in both]


def _copies(rows: Rows, out: Findings, _: Gpu) -> None:
    """Rates of both directions, and what one call costs each way; engines that batch pay less for a piece."""
    pinned = rows.of("copy", memory="pinned", gpu=0)

    def model(values: dict[str, float], row: Row) -> float:
        direction = row.point.text("direction")
        return values[f"call_{direction}_s"] + row.point.number("bytes") / values[f"{direction}_Bps"]

    parameters = [
        Parameter(name="call_h2d_s", typical=3e-6),
        Parameter(name="call_d2h_s", typical=3e-6),
        Parameter(name="h2d_Bps", typical=40e9),
        Parameter(name="d2h_Bps", typical=40e9),
    ]
    found = fit(model, parameters, pinned, scale=0.03, source="pinned copies by size")
    out.fits["copies"] = found
    for name, value in found.values.items():
        if name.startswith("call_"):
            out.kept[name] = value.value
        else:
            out.values[f"link.{name}"] = value
    out.values["link.copy_s"] = found.values["call_h2d_s"]


def _lone_copies(rows: Rows, out: Findings, _: Gpu) -> None:
    alone, queued = rows.pairs(rows.of("copy", memory="alone"), rows.of("copy", memory="pinned", gpu=0), "direction", "bytes")
    small = [(a, q) for a, q in zip(alone, queued, strict=True) if a.point.number("bytes") <= 64 * KiB]
    value, low, high = (
        max(1e-7, statistics.median(extra))
        for extra in ([a.seconds - q.seconds for a, q in small], [a.lo - q.hi for a, q in small], [a.hi - q.lo for a, q in small])
    )
    text = "small copies on an idle stream less the same copies in a row"
    out.values["link.launch_s"] = Fitted(value=value, lo=low, hi=high, source=text)


def _small_copies(rows: Rows, out: Findings, _: Gpu) -> None:
    """Per-piece cost of scattered copies: the flat part below the size from which the link is half used."""
    path = "batch" if rows.of("scatter", path="batch") else "loop"
    most = max(r.point.number("pieces") for r in rows.of("scatter", path=path))
    pieces = [r for r in rows.of("scatter", path=path, pieces=min(most, 1024)) if r.point.text("direction") == "h2d"]
    rate = out.values["link.h2d_Bps"].value
    slow = [r for r in pieces if r.rate(r.point.number("bytes") * r.point.number("pieces")) < rate / 2]
    label = f"scattered pieces, {'cudaMemcpyBatchAsync' if path == 'batch' else 'a loop of copies'}"
    if path == "batch":
        out.values["link.copy_s"] = direct(
            [min(pieces, key=lambda r: r.point.number("bytes"))],
            lambda row, seconds: max(1e-9, seconds / row.point.number("pieces") - row.point.number("bytes") / rate),
            source=label,
        )
    if slow:
        each = direct(slow, lambda row, seconds: seconds / row.point.number("pieces"), source=label)
        out.values["link.small_copy_s"] = each
        fast = [r.point.number("bytes") for r in pieces if r not in slow]
        edge = min(fast) if fast else int(each.value * rate)
        floor = max(r.point.number("bytes") for r in slow)
        out.values["link.small_copy_bytes"] = Fitted(value=edge, lo=floor, hi=edge, source=label)


def _duplex(rows: Rows, out: Findings, _: Gpu) -> None:
    alone, both = rows.pairs(rows.of("copy", memory="pinned", gpu=0), rows.of("duplex"), "direction", "bytes")
    large = [(a, b) for a, b in zip(alone, both, strict=True) if a.point.number("bytes") >= 16 * MiB]
    text = "pinned copies while the other direction is busy against alone"
    out.values["link.duplex_fraction"] = ratio([a for a, _ in large], [b for _, b in large], source=text)


def _overlap(rows: Rows, out: Findings, _: Gpu) -> None:
    alone = {r.point.text("measured"): r for r in rows.of("overlap", beside="none")}
    for row in rows.of("overlap"):
        if row.point.text("beside") != "none" and row.point.text("measured") in alone:
            name = f"slowdown_{row.point.text('measured')}_beside_{row.point.text('beside')}"
            out.kept[name] = row.seconds / alone[row.point.text("measured")].seconds
    beside = rows.of("overlap", measured="gemm", beside="h2d")
    slowed = ratio(beside, [alone["gemm"]], source="matrix products beside copies to the GPU against alone")
    out.values["link.compute_slowdown"] = Fitted(
        value=max(0.0, slowed.value - 1), lo=max(0.0, slowed.lo - 1), hi=max(0.0, slowed.hi - 1), source=slowed.source
    )


def _pinning(rows: Rows, out: Findings, _: Gpu) -> None:
    for row in rows.of("pin"):
        out.kept[f"pin_{row.point.text('how')}_s_per_GiB"] = row.seconds * GiB / row.point.number("bytes")
    text = "torch's pinned allocator"
    torch_rows = rows.of("pin", how="torch") or rows.of("pin")
    out.values["host.pin_s_per_byte"] = direct(torch_rows, lambda row, s: s / row.point.number("bytes"), source=text)


def _hbm(rows: Rows, out: Findings, _: Gpu) -> None:
    for row in rows.of("hbm"):
        moved = row.point.number("bytes") * (2 if row.point.text("what") == "copy" else 1)
        name = f"hbm_{row.point.text('what')}_Bps"
        out.kept[name] = max(out.kept.get(name, 0.0), row.rate(moved))


def _gemm(rows: Rows, out: Findings, gpu: Gpu) -> None:
    def model(v: dict[str, float], row: Row) -> float:
        p = row.point
        flops, size = predict.gemm_traffic(p.number("m"), p.number("n"), p.number("k"))
        peak_flops, peak_Bps = gpu.bf16_flops * v["gemm_efficiency"], gpu.hbm_Bps * v["weight_read_efficiency"]
        return v["gemm_overhead_s"] + predict.roofline_s(flops, size, peak_flops, peak_Bps, v["gemm_knee"])

    parameters = [
        Parameter(name="gemm_overhead_s", typical=3e-6),
        Parameter(name="gemm_efficiency", typical=0.75, width=0.3, at_most=1.02),
        Parameter(name="weight_read_efficiency", typical=0.85, width=0.3, at_most=1.02),
        Parameter(name="gemm_knee", typical=3.0, width=0.7, at_most=30.0),
    ]
    products = [r for r in rows.of("gemm") if r.point.text("model") != "square"]
    _keep(out, "gemm", fit(model, parameters, products, scale=0.05, source="bf16 products of model shapes"))
    for row in rows.of("gemm", model="square"):
        p = row.point
        out.kept["gemm_8192_flops"] = row.rate(2.0 * p.number("m") * p.number("n") * p.number("k"))


def _keep(out: Findings, name: str, found: Fit) -> None:
    out.fits[name] = found
    out.values |= {f"gpu.{parameter}": value for parameter, value in found.values.items()}


def fastest(rows: list[Row]) -> list[Row]:
    """Of rows that differ only in `path`, the fastest."""
    best: dict[tuple[tuple[str, Value], ...], Row] = {}
    for row in rows:
        key = tuple(sorted((k, v) for k, v in row.point.params.items() if k != "path"))
        if key not in best or row.seconds < best[key].seconds:
            best[key] = row
    return list(best.values())


def _fit_prefill_attention(rows: list[Row], gpu: Gpu, overhead_s: float, source: str) -> Fit:
    def model(v: dict[str, float], row: Row) -> float:
        p = row.point
        flops = predict.prefill_attention_flops(
            p.number("heads"), p.number("dim"), p.number("new"), p.number("context"), v["attention_n0_tokens"]
        )
        return overhead_s + flops / (gpu.bf16_flops * v["attention_efficiency"])

    parameters = [
        Parameter(name="attention_efficiency", typical=0.5, width=0.5, at_most=1.02),
        Parameter(name="attention_n0_tokens", typical=500.0),
    ]
    return fit(model, parameters, rows, scale=0.08, source=source)


def _prefill_attention(rows: Rows, out: Findings, gpu: Gpu) -> None:
    measured = [r for r in rows.of("attention_prefill") if r.point.number("dim") == 128]
    overhead = out.values.get("gpu.attention_overhead_s")
    overhead_s = overhead.value if overhead else gpu.attention_overhead_s
    text = "prefill attention, the faster of torch's kernels"
    _keep(out, "prefill attention", _fit_prefill_attention(fastest(measured), gpu, overhead_s, text))
    flash = [r for r in measured if r.point.text("path") == "flash"]
    as_run = _fit_prefill_attention(flash, gpu, overhead_s, "prefill attention, FlashAttention-2").values
    out.kept |= {f"torch_{name}": value.value for name, value in as_run.items()}


def _read_bytes(row: Row) -> float:
    """Bytes of K and V that a row of decode attention reads."""
    p = row.point
    return 4.0 * p.number("batch") * p.number("context") * p.number("kv_heads") * p.number("dim")


def _decode_attention(rows: Rows, out: Findings, gpu: Gpu) -> None:
    """The read rate is the best that large reads reach: torch splits the work over too few blocks at some batches,
    engines' kernels do not. Another shape or batch may still read faster: the interval reaches up to what a plain
    read of GPU memory gets.
    """
    best = fastest(rows.of("attention_decode"))
    large = [r for r in best if _read_bytes(r) >= 64 * MiB]
    top = sorted(large, key=lambda r: r.seconds / _read_bytes(r))[: max(1, len(large) // 10)]
    text = "decode attention, the best tenth of reads of 64 MiB and more"
    rate = direct(top, lambda row, s: _read_bytes(row) / s / gpu.hbm_Bps, source=text)
    ceiling = out.kept.get("hbm_read_Bps", 0.0) / gpu.hbm_Bps
    out.values["gpu.kv_read_efficiency"] = msgspec.structs.replace(rate, hi=max(rate.hi, ceiling))

    def model(v: dict[str, float], row: Row) -> float:
        return v["attention_overhead_s"] + _read_bytes(row) / (gpu.hbm_Bps * v["kv_read_efficiency"])

    overhead = Parameter(name="attention_overhead_s", typical=8e-6)
    torch_rate = Parameter(name="kv_read_efficiency", typical=0.85, width=0.3, at_most=1.02)
    found = fit(model, [overhead, torch_rate], best, scale=0.08, source="decode attention, the faster of torch's kernels")
    out.fits["decode attention"] = found
    out.values["gpu.attention_overhead_s"] = found.values["attention_overhead_s"]
    out.kept["torch_kv_read_efficiency"] = found.values["kv_read_efficiency"].value


def _elementwise(rows: Rows, out: Findings, gpu: Gpu) -> None:
    """Engines fuse: one kernel each for two norms, rotary embedding, cache write and gated activation."""
    small = {r.point.text("what"): r for r in rows.of("elementwise", m=1)}
    norm, other = small["rms_norm"], small["residual"]
    text = "two norms and three single-kernel operations on one token, in a CUDA graph"
    out.values["gpu.layer_overhead_s"] = Fitted(
        value=2 * norm.seconds + 3 * other.seconds,
        lo=2 * norm.lo + 3 * other.lo,
        hi=2 * norm.hi + 3 * other.hi,
        source=text,
    )
    large = [r for r in rows.of("elementwise", what="residual") if r.point.number("m") >= 1024]
    large = [max(large, key=lambda r: r.point.number("m"))]
    hidden = predict.shape(large[0].point.text("model")).hidden
    out.values["gpu.elementwise_Bps_efficiency"] = direct(
        large,
        lambda row, s: 6.0 * row.point.number("m") * hidden / s / gpu.hbm_Bps,
        source="addition of two large activations",
    )


def _whole_model(rows: Rows, out: Findings, gpu: Gpu) -> None:
    """What torch's own, unfused operations cost in whole decoders; kept apart, since engines fuse them."""
    steps = [*rows.of("decode_step", run="graph"), *rows.of("prefill_step", run="graph")]
    known = {k.removeprefix("gpu."): v.value for k, v in out.values.items() if k.startswith("gpu.")}
    known |= {k.removeprefix("torch_"): v for k, v in out.kept.items() if k.startswith("torch_")}

    def model(v: dict[str, float], row: Row) -> float:
        as_run = msgspec.structs.replace(gpu, **{**known, **v})
        step = predict.decode_step_s if row.point.op == "decode_step" else predict.prefill_step_s
        dims, layers = predict.model_of(row.point)
        first = row.point.number("batch") or row.point.number("new")
        return step(as_run, dims, layers, first, row.point.number("context"))

    parameters = [
        Parameter(name="layer_overhead_s", typical=2e-5),
        Parameter(name="elementwise_Bps_efficiency", typical=0.4, width=0.7, at_most=1.02),
    ]
    found = fit(model, parameters, steps, scale=0.05, source="whole decoders in CUDA graphs")
    out.fits["whole model"] = found
    out.kept |= {f"torch_{name}": value.value for name, value in found.values.items()}


def _grid(reads: list[Row]) -> list[Row]:
    """The reads of the grid: those with the buffers that most of the reads used."""
    kinds = [r.point.text("pages") for r in reads]
    return [r for r in reads if r.point.text("pages") == statistics.mode(kinds)]


def _sustained(rows: Rows, out: Findings, _: Gpu) -> None:
    """How much longer a whole prefill takes than the sum of its parts: launches, and the clocks that power allows; kept apart."""
    ratios = [r.seconds / parts for r in rows.of("prefill_step", run="graph") if (parts := _sum_of_parts(rows, r))]
    if not ratios:
        raise ValueError("no whole prefill with all of its parts")
    out.kept["sustained_over_parts"] = statistics.median(ratios)


def _sum_of_parts(rows: Rows, step: Row) -> float:
    """Seconds of a prefill as torch runs it, from the rows of its operations; 0 when one of them was not measured."""
    (dims, layers), new = predict.model_of(step.point), step.point.number("new")
    products = {r.point.text("what"): r.seconds for r in rows.of("gemm", model=dims.name, m=new)}
    attention = rows.of(
        "attention_prefill",
        path="flash",
        new=new,
        context=step.point.number("context"),
        heads=dims.heads,
        dim=dims.head_dim,
    )
    other = {r.point.text("what"): r.seconds for r in rows.of("elementwise", m=new, model=dims.name)}
    if len(products) < 5 or not attention or len(other) < 4 or "hbm_copy_Bps" not in _memory(rows):
        return 0.0
    moved = 4.0 * new * dims.head_dim * (dims.heads + 2 * dims.kv_heads)  # written to the cache, and heads put side by side
    turned = other["rope"] * (dims.heads + dims.kv_heads) / dims.heads
    extra = 2 * other["rms_norm"] + other["silu_mul"] + turned + moved / _memory(rows)["hbm_copy_Bps"]
    layer = sum(products[name] for name in dims.layer_products()) + attention[0].seconds + extra
    return layers * layer


def _memory(rows: Rows) -> dict[str, float]:
    found = Findings(values={}, fits={}, kept={}, missed={})
    _hbm(rows, found, Gpu(name="", memory_bytes=0, hbm_Bps=1.0, bf16_flops=1.0))
    return found.kept


def _disk(rows: Rows, out: Findings, _: Gpu) -> None:
    reads = _grid(rows.of("disk_read", order="random"))

    def model(v: dict[str, float], row: Row) -> float:
        size, depth, knee = row.point.number("bytes"), row.point.number("threads"), v["queue_knee"]
        offered = depth * size / (v["latency_s"] + size / v["stream_Bps"])
        ceiling = min(v["read_Bps"], v["read_iops"] * size)
        return float(size * (offered**-knee + ceiling**-knee) ** (1 / knee))

    top = max(r.rate(r.point.number("bytes")) for r in reads)
    parameters = [
        Parameter(name="latency_s", typical=1e-4),
        Parameter(name="stream_Bps", typical=top, width=0.7, at_most=30 * top),
        Parameter(name="read_Bps", typical=top, width=0.3),
        Parameter(name="read_iops", typical=2e5, width=2.0),
        Parameter(name="queue_knee", typical=3.0, width=0.35, at_most=20.0),
    ]
    found = fit(
        model,
        parameters,
        reads,
        scale=0.08,
        source=f"direct random reads into {reads[0].point.text('pages')} buffers, by block and threads",
    )
    out.fits["disk reads"] = found
    out.values |= {f"disk.{name}": value for name, value in found.values.items()}


def _disk_writes(rows: Rows, out: Findings, _: Gpu) -> None:
    writes = rows.of("disk_write")
    best = min(writes, key=lambda r: r.seconds / r.point.number("bytes"))
    lasting = rows.of("disk_sustained", what="write")
    chosen = [best] if not lasting or lasting[0].notes["sustained_Bps"] > best.rate(best.point.number("bytes")) else lasting
    text = "direct writes, sustained" if chosen is lasting else "direct random writes, the best block and threads"
    out.values["disk.write_Bps"] = direct(chosen, lambda row, s: row.point.number("bytes") / s, source=text)
    single = [r for r in writes if r.point.number("threads") == 1]
    smallest = min(single, key=lambda r: r.point.number("bytes"))
    rate = out.values["disk.write_Bps"].value
    out.values["disk.write_latency_s"] = direct(
        [smallest], lambda row, s: max(1e-6, s - row.point.number("bytes") / rate), source="direct writes of one thread"
    )


def _disk_rest(rows: Rows, out: Findings, _: Gpu) -> None:
    for row in rows.of("disk_mixed"):
        out.kept |= {"disk_mixed_read_Bps": row.notes["Bps"], "disk_mixed_write_Bps": row.notes["write_Bps"]}
    for row in rows.of("disk_sustained"):
        what = row.point.text("what")
        out.kept |= {
            f"disk_{what}_burst_Bps": row.notes["burst_Bps"],
            f"disk_{what}_sustained_Bps": row.notes["sustained_Bps"],
        }
    for row in rows.of("pipeline"):
        rate = row.rate(row.point.number("bytes"))
        out.kept["pipeline_Bps"] = max(out.kept.get("pipeline_Bps", 0.0), rate)
    for row in rows.of("host_copy"):
        out.kept[f"host_copy_{row.point.number('threads')}_threads_Bps"] = row.rate(row.point.number("bytes"))


STEPS: tuple[tuple[str, Callable[[Rows, Findings, Gpu], None]], ...] = (
    ("copies", _copies),
    ("lone copies", _lone_copies),
    ("scattered copies", _small_copies),
    ("both directions", _duplex),
    ("copies against compute", _overlap),
    ("pinning", _pinning),
    ("GPU memory", _hbm),
    ("matrix products", _gemm),
    ("decode attention", _decode_attention),
    ("prefill attention", _prefill_attention),
    ("elementwise", _elementwise),
    ("sustained compute", _sustained),
    ("whole model", _whole_model),
    ("disk reads", _disk),
    ("disk writes", _disk_writes),
    ("other disk figures", _disk_rest),
)


def fit_all(rows: Iterable[Row], gpu: Gpu) -> Findings:
    """Fit everything that the rows determine; what they do not is listed in `missed` with the reason.

    `gpu` supplies the peaks.
    """
    have, out = Rows(rows), Findings(values={}, fits={}, kept={}, missed={})
    for name, step in STEPS:
        try:
            step(have, out, gpu)
        except MissingError:
            raise
        except (ValueError, KeyError, StopIteration, IndexError, ZeroDivisionError) as error:
            out.missed[name] = f"not enough was measured ({type(error).__name__}: {error})"
    out.values = {path: over_runs(path, found) for path, found in out.values.items()}
    return out


def peaks(name: str, memory_bytes: int, rows: Iterable[Row]) -> tuple[Gpu, dict[str, str]]:
    """The GPU with its datasheet peaks, or for one that kvplan does not know with the best that was measured; and
    where each comes from.
    """
    known = peak(name)
    if known:
        sources = dict.fromkeys(("hbm_Bps", "bf16_flops", "fp8_flops", "fp4_flops"), f"datasheet of {name}, dense")
        gpu = Gpu(
            name=name,
            memory_bytes=memory_bytes,
            hbm_Bps=known.hbm_Bps,
            bf16_flops=known.bf16_flops,
            fp8_flops=known.fp8_flops,
            fp4_flops=known.fp4_flops,
        )
        return gpu, sources
    have = Rows(rows)
    reads = [r.rate(r.point.number("bytes")) for r in have.of("hbm", what="read")]
    products = [r.rate(2.0 * r.point.number("m") * r.point.number("n") * r.point.number("k")) for r in have.of("gemm")]
    text = "the best that was measured: kvplan has no datasheet of this GPU"
    top = Gpu(name=name, memory_bytes=memory_bytes, hbm_Bps=max(reads, default=1e12), bf16_flops=max(products, default=1e14))
    return top, dict.fromkeys(("hbm_Bps", "bf16_flops"), text)
