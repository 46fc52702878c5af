"""`kvplan.size`: one question in, one SizeResult out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvplan.deployment import DEPLOYED, Deployment, Parallel, Tiers
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError
from kvplan.hardware.spec import Machine
from kvplan.memory.below import below
from kvplan.memory.formats import state_dtype
from kvplan.memory.kv import growth_bytes, kept_tokens, multi_head_bytes, state_bytes, token_bytes
from kvplan.memory.pool import beyond_gpus, told_batch
from kvplan.memory.weights import parameters, part_bits, rank_weight_bytes, weight_bytes
from kvplan.model import Layers, ModelSpec
from kvplan.provenance import Source
from kvplan.results.size import Engine, Kv, LayerLine, OffloadRow, SizeResult, Weights
from kvplan.settings import replaced
from kvplan.sizing.offload import placements
from kvplan.sizing.question import Question, check
from kvplan.sizing.ways_out import fit, longest_context
from kvplan.units import format_bytes, format_tokens

KEEP_TOKENS = 1024
LEAST_CONTEXT_TOKENS = 1024
"""A longest context below this is no answer to a question that names none."""


def answer(question: Question, keep_tokens: int = KEEP_TOKENS) -> SizeResult:
    """Everything that can be said in closed form about a question. Raises InputError on one without meaning."""
    check(question)
    model = question.model
    offload = placements(question, keep_tokens)
    return SizeResult(
        model=model.name,
        context_tokens=question.context_tokens,
        batch=question.batch,
        kv_dtype=question.kv_name,
        tp=question.deployment.parallel.tp,
        pp=question.deployment.parallel.pp,
        dp=question.deployment.parallel.dp,
        ep=question.deployment.parallel.ep,
        machine=question.machine.name if question.machine else None,
        kv=_kv(question),
        layers=tuple(_line(question, layer) for layer in model.layers if layer.kind != "none"),
        weights_bytes=weight_bytes(model, question.deployment.dtype),
        weights=Weights(
            parameters=parameters(model).total,
            active_parameters=parameters(model).active,
            bits=part_bits(model, question.deployment.dtype),
            bytes_per_gpu=rank_weight_bytes(question.deployment),
        ),
        engine=_engine(question),
        fit=fit(question),
        offload=offload,
        tier_bytes_per_token=_tiers(question),
        provenance=_provenance(question),
        warnings=(*_warnings(question), *_overfull(question, offload)),
    )


def _kv(question: Question) -> Kv:
    model, tokens, fmt = question.model, question.context_tokens, question.format
    return Kv(
        bytes_per_sequence=question.sequence_bytes,
        bytes_per_token_mean=question.sequence_bytes / tokens,
        growth_bytes_per_token=growth_bytes(model, tokens, fmt),
        bytes_total=question.sequence_bytes * question.batch,
        mha_formula_bytes=multi_head_bytes(model, tokens, fmt),
        state_bytes=sum(layer.count * _state(question, layer) for layer in model.layers),
    )


def _state(question: Question, layer: Layers) -> int:
    return state_bytes(layer, question.model.dtype, 1, state_dtype(question.model, question.engine))


def _line(question: Question, layer: Layers) -> LayerLine:
    size, kept = token_bytes(layer, question.format), kept_tokens(layer, question.context_tokens)
    return LayerLine(
        kind=layer.kind,
        count=layer.count,
        kept_tokens=kept if size else 0,
        bytes_per_token=size,
        bytes=layer.count * (kept * size + _state(question, layer)),
        formula=_formula(layer),
    )


def _spread(layer: Layers) -> str:
    """Which tokens the rows of a latent or an index stand for."""
    window = f", last {format_tokens(layer.window_tokens)} tokens" if layer.window_tokens else ""
    return f", one for {layer.row_tokens} tokens" if layer.row_tokens > 1 else window


def _formula(layer: Layers) -> str:
    if layer.kind == "state":
        return f"state of {layer.state_elements:,} + {layer.conv_elements:,} elements"
    if layer.kind == "latent":
        return f"latent {layer.latent_dim}" + (f" + index {layer.index_dim} fp8 + 4 B" if layer.index_dim else "") + _spread(layer)
    if layer.kind == "index":
        return f"index key {layer.index_dim} {layer.index_dtype or 'fp8 + 4 B'}{_spread(layer)}"
    if layer.kind == "shared":
        return "reads an earlier layer's KV"
    dims = f"2 x {layer.k_dim}" if layer.k_dim == layer.v_dim else f"({layer.k_dim} + {layer.v_dim})"
    window = f", last {format_tokens(layer.window_tokens)} tokens" if layer.window_tokens else ""
    return f"{layer.kv_heads} heads x {dims}{window}"


def _engine(question: Question) -> Engine:
    layout, pool = question.layout, question.kv_pool_bytes
    pooled = pool is not None
    return Engine(
        name=question.engine.name,
        title=question.engine.title,
        version=question.engine.version,
        stored_kv_dtype=question.stored_name,
        block_tokens=layout.block_tokens,
        block_bytes=layout.block_bytes * layout.ranks,
        groups=layout.groups,
        reserved_bytes_per_request=layout.reserved_bytes(question.context_tokens),
        growth_bytes_per_block=layout.growth_block_bytes,
        pool_blocks=question.blocks if pooled else None,
        pool_tokens=layout.tokens(question.blocks, question.context_tokens) if pooled else None,
        max_concurrency=layout.concurrency(question.blocks, question.context_tokens) if pooled else None,
    )


def _tiers(question: Question) -> dict[str, float]:
    """Mean bytes per token of one sequence in the engine's pool while it decodes, and in the tiers below once it is stored, over all
    ranks.
    """
    tokens, pool = question.context_tokens, question.layout
    held = (pool.grown_blocks(tokens) + pool.fixed_blocks(tokens, 1)) * pool.block_bytes * pool.ranks
    stored = below(question.deployment).stored(tokens).tier_bytes
    return {"gpu": held / tokens, "cpu": stored / tokens, "disk": stored / tokens}


def _provenance(question: Question) -> dict[str, Source]:
    model, engine = question.model, question.engine
    found = {"model": Source(kind="datasheet", source=model.source or model.name)}
    found["kv"] = Source(kind="derived", source="layer formula: layers x KV heads x (K + V dimensions) x bytes x kept tokens")
    found |= {f"engine.{path}": source for path, source in engine.provenance.items() if path.startswith(("memory", "kv_formats"))}
    if machine := question.machine:
        for path in ("gpu.memory_bytes", "link.h2d_Bps", "disk.read_Bps", "host.memory_bytes"):
            found[f"machine.{path}"] = machine.source(path)
    return found


def _overfull(question: Question, offload: tuple[OffloadRow, ...]) -> tuple[str, ...]:
    """A warning when a placement asks for more host memory than the machine can pin."""
    if question.machine is None:
        return ()
    host = question.machine.host
    room, wanted = int(host.memory_bytes * host.usable_fraction), max(row.cpu_bytes for row in offload)
    if wanted <= room:
        return ()
    return (f"up to {format_bytes(wanted)} on the CPU exceed the {format_bytes(room)} that the host can pin",)


def _warnings(question: Question) -> tuple[str, ...]:
    model = question.model
    found = [*model.notes, *(question.machine.notes if question.machine else ())]
    if question.given_pool_bytes and (beyond := beyond_gpus(question.deployment, question.given_pool_bytes)):
        found.append(beyond)
    found += question.deployment.ranks_apart
    limit = model.max_context_tokens
    if limit and question.context_tokens > limit:
        found.append(f"{format_tokens(question.context_tokens)} tokens exceed the model's own context of {format_tokens(limit)}")
    if model.quantization is None and not question.deployment.dtype:
        stated = next((word for word in ("fp8", "nvfp4", "awq", "gptq", "int4") if word in model.name.lower()), "")
        if stated:
            found.append(
                f"the name says {stated}, but the config has no quantization_config: weights are taken as "
                f"{model.dtype}; --dtype {stated} changes that"
            )
    if question.deployment.kv_dtype == "auto" and question.kv_name != model.dtype:
        found.append(f"the checkpoint asks for {question.kv_name} KV, and {question.engine.name} follows it")
    if question.stored_name != question.kv_name:
        found.append(f"{question.engine.name} stores {question.kv_name} KV of this model as {question.stored_name}")
    if any(layer.kind == "cross" and not layer.window_tokens for layer in model.layers):
        found.append("cross attention is sized for an encoder input as long as the context")
    return tuple(found)


def ask(
    model: ModelSpec,
    *,
    engine: EngineSpec,
    machine: Machine | None = None,
    context_tokens: int = 0,
    batch: int = 1,
    kv_dtype: str = "auto",
    dtype: str = "",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 0,
    gpu_fraction: float = 0.0,
    pool_bytes: int = 0,
    step_tokens: int = 0,
    max_batch: int = 0,
    keep_tokens: int = KEEP_TOKENS,
    sets: Mapping[str, object] | None = None,
) -> SizeResult:
    """Sizes of one model in one engine. A context of 0 tokens is the model's own, up to 128k and to what fits the machine; a fraction,
    step or most sequences of 0 are the engine's. `sets` maps settings such as `engine.block_tokens` to values.
    """
    if not 0 <= gpu_fraction <= 1:
        raise InputError(f"the GPU memory fraction {gpu_fraction:g} must lie above 0 and at most at 1")
    deployment = Deployment(
        model=model,
        engine=msgspec.structs.replace(engine, gpu_fraction=gpu_fraction) if gpu_fraction else engine,
        server=machine,
        parallel=spread(tp=tp, pp=pp, dp=dp, ep=ep),
        tiers=Tiers(gpu_kv_bytes=pool_bytes),
        kv_dtype=kv_dtype,
        dtype=dtype,
    )
    given = {"engine.step_tokens": step_tokens, "engine.max_batch": max_batch}
    settings: dict[str, object] = {path: value for path, value in given.items() if value} | dict(sets or {})
    for path, value in settings.items():
        deployment = with_setting(deployment, path, value)
    if "engine.max_batch" in settings:
        deployment = deployment.changed(engine=told_batch(deployment.engine, deployment.engine.max_batch))
    question = Question(deployment=deployment, context_tokens=context_tokens or default_context(deployment.model), batch=batch)
    if not context_tokens:
        check(question)
        longest = longest_context(question)[0] if question.kv_pool_bytes else 0
        if LEAST_CONTEXT_TOKENS <= longest < question.context_tokens:
            cut = f"{question.context_tokens:,} tokens do not fit: sized for {longest:,}; --ctx asks for another context"
            found = answer(question.changed(context_tokens=longest), keep_tokens)
            return msgspec.structs.replace(found, warnings=(cut, *found.warnings))
    return answer(question, keep_tokens)


def with_setting(deployment: Deployment, path: str, value: object) -> Deployment:
    """A deployment with one field replaced. Raises InputError for what is no setting of it."""
    first, _, rest = path.partition(".")
    if first not in DEPLOYED:
        raise InputError(f"{path} is not a setting", hint=f"settings start with {', '.join(DEPLOYED)}")
    changed: Deployment = replaced(deployment, [DEPLOYED[first], *rest.split(".")] if rest else [DEPLOYED[first]], value, path)
    return changed


def spread(*, tp: int, pp: int, dp: int, ep: int) -> Parallel:
    """Ranks as options give them. Raises InputError naming the option that has no meaning."""
    for name, value, least in (("tp", tp, 1), ("pp", pp, 1), ("dp", dp, 1), ("ep", ep, 0)):
        if value < least:
            raise InputError(f"--{name} {value} is {'negative' if name == 'ep' else 'not above zero'}")
    return Parallel(tp=tp, pp=pp, dp=dp, ep=ep)


def default_context(model: ModelSpec) -> int:
    """The model's own context, up to 131,072 tokens."""
    return min(model.max_context_tokens or 8192, 131072)
