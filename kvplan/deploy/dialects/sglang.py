"""SGLang with HiCache."""

from __future__ import annotations

import shlex

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import Dialect, SizeUnit, plain_number
from kvplan.deploy.parallel import attention_groups
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, shell
from kvplan.errors import InputError
from kvplan.memory.pinned import default_ratio
from kvplan.results.placement import Placement
from kvplan.units import parse_bytes

DIALECT = Dialect(
    title="SGLang",
    unit=SizeUnit(word="GB", scale_bytes=10**9, per_rank=True, source="hicache_size x 1e9, allocated by each rank"),
    dtypes={"auto": "auto", "bf16": "bf16", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"},
    stores={"write_through": "write_through", "selective": "write_through_selective", "on_evict": "write_back"},
    policies={"lru": "lru", "lfu": "lfu"},
)


def write(serving: Serving) -> Written:
    placement = serving.placement
    groups = placement.dp if serving.joint else 1  # of data-parallel attention, which share the ranks, requests and steps
    apart = placement.dp // groups
    of_all = f" of all {groups} attention groups" if groups > 1 else ""
    wanted: list[tuple[object, Line]] = [
        (placement.max_context_tokens, (f"--context-length {placement.max_context_tokens}", ["tokens of the longest request"])),
        (placement.max_batch, (f"--max-running-requests {placement.max_batch * groups}", [f"sequences at once{of_all}, as simulated"])),
        (placement.step_tokens, (f"--chunked-prefill-size {placement.step_tokens // apart}", [f"tokens of a step{of_all}, as simulated"])),
        (True, (f"--tp-size {placement.tp * groups}", [f"ranks{of_all or ' of the replica'}"])),
        (placement.pp > 1, (f"--pp-size {placement.pp}", ["stages of the replica"])),
        (groups > 1, (f"--attn-dp-size {groups}", ["attention groups, each with its own pool and tiers"])),
        (apart > 1, (f"--dp-size {apart}", ["copies, each with its own pool and tiers"])),
        (placement.ep, (f"--ep-size {placement.ep}", ["ranks between which whole experts are spread"])),
        (True, (f"--mem-fraction-static {plain_number(placement.gpu_fraction)}", ["share of each GPU for weights and KV only"])),
        (placement.gpu_kv_bytes and serving.pool_tokens, (f"--max-total-tokens {serving.pool_tokens}", ["tokens of the KV pool, at most"])),
        (True, (f"--kv-cache-dtype {DIALECT.dtypes[placement.kv_dtype]}", ["KV dtype"])),
        (placement.block_tokens, (f"--page-size {placement.block_tokens}", ["tokens of a page, on the GPU and below it"])),
    ]
    arguments = [line for condition, line in wanted if condition]
    if placement.cpu_bytes:
        arguments += _hicache(placement)
    before: list[Line] = []
    if placement.disk_bytes:
        per_rank = placement.disk_bytes // placement.ranks
        total = DIALECT.size(placement.disk_bytes, placement.ranks)[1]
        place = shlex.quote(placement.disk_path)
        arguments.append(("--hicache-storage-backend file", ["disk tier"]))
        if serving.prefetch != "none":
            arguments.append((f"--hicache-storage-prefetch-policy {serving.prefetch}", ["reads from it while a request is queued"]))
        before.append((f"export SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR={place}", ["where the disk tier lives"]))
        before.append((f"export SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE={per_rank}", [f"in bytes in each rank: {total}"]))
    command = f"python -m sglang.launch_server --model-path {shlex.quote(placement.model)}"
    return [shell(DIALECT, serving.version, command, arguments, before)], []


def _hicache(placement: Placement) -> list[Line]:
    """SGLang takes whole GB per rank: the size is rounded down."""
    engine = DIALECT
    size = int(engine.unit.number(placement.cpu_bytes, placement.ranks))
    total = DIALECT.size(size * engine.unit.scale_bytes * placement.ranks, placement.ranks)[1]
    arguments: list[Line] = [
        ("--enable-hierarchical-cache", ["CPU tier on"]),
        (f"--hicache-size {size}", [f"in each rank, in whole GB of 10^9 bytes: {total}"]),
        (f"--hicache-write-policy {engine.stores[placement.store]}", ["when a page is stored below the GPU"]),
    ]
    if placement.policy != "lru":
        arguments.append((f"--radix-eviction-policy {engine.policies[placement.policy]}", ["eviction"]))
    return arguments


def _shared(reading: Reading) -> None:
    """Limits as a placement has them: requests of one data-parallel rank, the step's tokens of all."""
    groups = attention_groups(reading.config.flags)
    batch, step = (reading.fields.get(name) for name in ("max_batch", "step_tokens"))
    if isinstance(batch, int):
        reading.fields["max_batch"] = batch // groups
    if isinstance(step, int):
        reading.fields["step_tokens"] = step * (reading.dp // groups)


def read(reading: Reading) -> None:
    flags, environment = reading.config.flags, reading.config.environment
    command_line(reading)
    _shared(reading)
    named = [name for name in flags if name.startswith("--hicache") or "hierarchical" in name]
    reading.unknown(named, "flags")
    if named and "--enable-hierarchical-cache" not in flags:
        sentence = "--hicache- flags have no effect without --enable-hierarchical-cache."
        reading.fault("no_effect", sentence, key="--enable-hierarchical-cache")
    if "--enable-hierarchical-cache" in flags:
        _hicache_size(reading, flags)
        words = {theirs: ours for ours, theirs in DIALECT.stores.items()}
        rule = flags.get("--hicache-write-policy", "write_through")
        if rule in words:
            reading.fields["store"] = words[rule]
            reading.mean("--hicache-write-policy", rule, f"pages are stored by the rule {words[rule]}")
        else:
            sentence = f"--hicache-write-policy {rule}: SGLang offers {', '.join(words)}."
            reading.fault("policy", sentence, key="--hicache-write-policy")
    if flags.get("--hicache-mem-layout") == "page_first" and flags.get("--hicache-io-backend") == "direct":
        sentence = "page_first works with the kernel backend only; with direct SGLang falls back to layer_first."
        reading.fault("layout", sentence, key="--hicache-mem-layout", hint="page_first_direct", level="warning")
    backend = flags.get("--hicache-storage-backend", "")
    if backend == "file":
        path = environment.get("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", "")
        reading.fields["disk_path"] = path
        key = "SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE"
        if size := _suffixed_bytes(environment.get(key, "0")):
            reading.tier("disk", key, size, where=path, scale_bytes=1)
        else:
            reading.mean("--hicache-storage-backend", backend, f"disk tier in {path or 'the default directory'}")
            sentence = f"The disk tier in {path or 'the default directory'} has no bound in bytes."
            hint = "set SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE, per rank"
            reading.fault("disk_unbounded", sentence, key="--hicache-storage-backend", hint=hint, level="warning")
    elif backend:
        reading.mean("--hicache-storage-backend", backend, f"lower tier kept by {backend}")


def _suffixed_bytes(text: str) -> int:
    """Bytes from SGLang's `64Gi`, `200G` or a plain number; 0 when it is none of them."""
    try:
        return parse_bytes(text + "B" if text[-1:].isalpha() and not text.endswith("B") else text)
    except InputError:
        return 0


def _hicache_size(reading: Reading, flags: dict[str, str]) -> None:
    """A size in GB per rank counts when it is above 0; a multiple of the GPU's pool otherwise."""
    size = reading.number("--hicache-size", flags.get("--hicache-size", 0)) or 0
    if size:
        reading.tier("cpu", "--hicache-size", flags["--hicache-size"])
        if "--hicache-ratio" in flags:
            reading.fault("no_effect", "--hicache-size counts; --hicache-ratio is ignored.", key="--hicache-ratio", level="note")
        return
    default = default_ratio(reading.host_pool, reading.pool_bytes, reading.host_bytes)
    text = flags.get("--hicache-ratio", f"{default:.3g}")
    ratio = reading.number("--hicache-ratio", text)
    if ratio is None:
        return
    if "--hicache-ratio" not in flags and default < reading.host_pool.ratio:
        sentence = f"Without a size the ratio of {reading.host_pool.ratio:g} is lowered to {text}: no more fits into the host's memory."
        reading.fault("ratio_lowered", sentence, key="--hicache-ratio", level="note")
    if ratio <= 1:
        sentence = f"--hicache-ratio {text} is not above 1: the host tier would hold no more than the GPU's pool."
        reading.fault("ratio", sentence, key="--hicache-ratio", hint="2 or more")
    if reading.pool_bytes:
        reading.tier_of("cpu", "--hicache-ratio", text, round(ratio * reading.pool_bytes))
    else:
        reading.mean("--hicache-ratio", text, f"CPU tier of {text} times the GPU's KV pool, in each rank")
