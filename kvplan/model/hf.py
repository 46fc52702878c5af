"""From a Hugging Face config.json to a ModelSpec, family by family."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.model.attention import hidden_size, layer_count
from kvplan.model.config import Fields, family_defaults
from kvplan.model.families import FAMILIES, UNKNOWN, family
from kvplan.model.quant import quantization
from kvplan.model.spec import ModelSpec
from kvplan.model.towers import AUDIO, VISION, other_params, towers_left_out

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}

_ORDINARY = re.compile(
    r"^(_.*|vision_config|audio_config|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|vocab_size|hidden_size|head_dim"
    r"|num_hidden_layers|num_attention_heads|num_key_value_heads|intermediate_size|max_position_embeddings|use_cache"
    r"|tie_word_embeddings|pretraining_tp|initializer_.*|.*_token_id|.*_eps|.*_epsilon|.*dropout.*|.*_bias|bias|.*_act|activation.*"
    r"|rope_.*|rotary_.*|partial_rotary_factor|original_max_position_embeddings|.*_multiplier|.*softcap.*|.*scaling.*|use_qk_norm"
    r"|qk_norm.*|quantization_config|num_experts.*|n_routed_experts|n_shared_experts|num_local_experts|num_shared_experts"
    r"|moe_intermediate_size|shared_expert.*|norm_topk_prob|router_.*|topk_.*|n_group|scoring_func|first_k_dense_replace"
    r"|decoder_sparse_step|mlp_only_layers|num_nextn_predict_layers|use_sliding_window|sliding_window|output_.*|return_dict.*"
    r"|task_specific_params|problem_type|id2label|label2id|torchscript|pruned_heads|is_decoder|gradient_checkpointing)$"
)
"""Fields of plain decoders. A family that kvplan does not know may have these and no others that are set."""


def from_hf_config(
    config: dict[str, Any], *, name: str, where: str = "", source: str = "", params: int = 0, as_family: str = ""
) -> ModelSpec:
    """A model from a Hugging Face config.json (the decoder inside it when nested).

    `params` is the maker's total where known; `as_family` reads it as if it were of that family. Raises InputError,
    naming the fields, when the family is unknown and has fields that kvplan cannot interpret, or when a field that the
    KV cache depends on is missing.
    """
    fields = _fields(config, where or name, as_family)
    return _read(fields, name, source, params, as_family)


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """How a config.json was read: the fields that decide, those that nothing looks at, and the file that a catalog would keep."""

    model: ModelSpec
    known: bool  # is the family one of the table
    read: dict[str, Any]
    assumed: dict[str, Any]  # fields that took the family's default
    unread: tuple[str, ...]
    catalog_file: dict[str, Any]


def explain(config: dict[str, Any], *, name: str, source: str, params: int = 0, as_family: str = "") -> Explained:
    """Read a config and say how. Raises InputError as from_hf_config does."""
    fields = _fields(config, name, as_family)
    model = _read(fields, name, source, params, as_family)
    looked_at = fields.looked_at | _EVERYWHERE
    read = {key: value for key, value in fields.own.items() if key in looked_at}  # null is a value: it keeps a default away
    around = {key: fields.outer.get(key) for key in (*_EVERYWHERE, "spatial_merge_size", "downsample_ratio")}
    around |= {part: fields.around(part) for part in (*VISION, *AUDIO)}
    around = {key: value for key, value in around.items() if value not in (None, {}) and (key not in read or len(fields.parts) > 1)}
    if fields.outer.get("architectures") and len(fields.parts) == 1:
        read["architectures"] = fields.outer["architectures"]
    if as_family:
        read["model_type"] = as_family
    kept = {**around, "text_config": read} if len(fields.parts) > 1 else {**around, **read}
    return Explained(
        model=model,
        known=fields.rules is not UNKNOWN,
        read=read,
        assumed={key: family_defaults()[fields.family][key] for key in sorted(set(fields.defaulted))},
        unread=tuple(sorted(key for key, value in fields.own.items() if key not in read and value is not None)),
        catalog_file={"source": source, **({"params": params} if params else {}), "config": kept},
    )


_WRONG_KIND = (TypeError, ValueError, AttributeError, KeyError, IndexError, ZeroDivisionError, OverflowError)
"""What readers meet where a config holds a list for a number, a number for a table, or the like."""

_EVERYWHERE = {"architectures", "model_type", "torch_dtype", "dtype", "tie_word_embeddings", "quantization_config"}
"""Fields that are read apart from `Fields.get`, inside the decoder's part or around it."""


def _fields(config: dict[str, Any], where: str, as_family: str) -> Fields:
    if as_family and as_family not in FAMILIES:
        raise InputError(f"no family named {as_family!r}", hint=did_you_mean(as_family, FAMILIES))
    return Fields(config, where, family, as_family)


def _read(fields: Fields, name: str, source: str, params: int, as_family: str) -> ModelSpec:
    if not fields.outer:
        raise InputError(f"{fields.where}: an empty config")
    if fields.rules.refused:
        raise fields.refuse(fields.rules.refused, *fields.rules.unread)
    if fields.rules is UNKNOWN:
        _check_ordinary(fields)
    try:
        layers = tuple(layer for layer in fields.rules.layers(fields) if layer.count)
        ffn = fields.rules.ffn(fields)
        other = other_params(fields)
    except _WRONG_KIND as error:
        raise fields.refuse(f"a field is not of the kind that this family has there ({error})") from None
    if any(number < 0 for layer in layers for number in (layer.count, layer.window_tokens, layer.params)) or other < 0:
        raise fields.refuse("a number is below zero")
    return ModelSpec(
        name=name,
        family=fields.family,
        depth=layer_count(fields),
        hidden=hidden_size(fields),
        vocab=fields.number("vocab_size", "padded_vocab_size") or 0,
        layers=layers,
        ffn=ffn,
        max_context_tokens=_max_context(fields),
        dtype=_dtype(fields),
        tied_embeddings=_tied(fields),
        declared_params=params,
        other_params=other,
        quantization=quantization(fields, expert_model=any(group.experts for group in ffn)),
        source=source,
        notes=_notes(fields, as_family),
    )


def _check_ordinary(fields: Fields) -> None:
    """An unknown family is read as a plain decoder only if all that its config sets belongs to one. Raises InputError."""
    unset: tuple[object, ...] = (None, False, [], {}, "")
    strange = [key for key, value in fields.own.items() if not _ORDINARY.match(key) and value not in unset]
    if fields.get("sliding_window") and fields.get("use_sliding_window") is not False:
        strange.append("sliding_window")
    if strange or fields.given("num_key_value_heads") is None:
        names = strange or ["num_key_value_heads"]
        reason = "kvplan does not know this architecture and cannot interpret what its KV cache may depend on"
        alike = _alike(names)
        hint = f"its fields look like {alike}: --as {alike} sizes it as one, with a warning" if alike else ""
        raise fields.refuse(reason, *names[:6], hint=hint)


def _alike(names: list[str]) -> str:
    """The family that knows most of the fields that are strange in a plain decoder; empty where none knows any."""
    shared = {
        name: len(known.keys() & set(names)) for name, known in family_defaults().items() if name in FAMILIES and not FAMILIES[name].refused
    }
    best = max(shared, key=lambda name: (shared[name], -len(family_defaults()[name])))
    return best if shared[best] else ""


def _max_context(fields: Fields) -> int:
    names = (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "max_sequence_length",
        "max_target_positions",
        "n_ctx",
        "model_max_length",
    )
    return fields.number(*names) or 0


def _dtype(fields: Fields) -> str:
    for config in (fields.own, fields.outer):
        for key in ("torch_dtype", "dtype"):
            if config.get(key) in _DTYPES:
                return _DTYPES[config[key]]
    return "bf16"


def _tied(fields: Fields) -> bool:
    for config in (fields.own, fields.outer):
        if isinstance(config.get("tie_word_embeddings"), bool):
            return config["tie_word_embeddings"]
    return bool(fields.get("tie_word_embeddings"))


def _notes(fields: Fields, as_family: str) -> tuple[str, ...]:
    taken = sorted(set(fields.defaulted) - {"tie_word_embeddings", "vocab_size"})
    notes = [f"{', '.join(taken)}: absent from the config, taken from the defaults of {fields.family}"] if taken else []
    wrapped = len(fields.parts) > 1 or str((fields.outer.get("architectures") or [""])[0]).endswith("ConditionalGeneration")
    if wrapped and not fields.rules.encoder and not fields.around(*VISION, *AUDIO):
        notes.append("the config does not describe its vision or audio tower, whose weights are left out")
    notes += [f"the shape of its {tower} tower is not clear: its weights are left out" for tower in towers_left_out(fields)]
    if fields.rules.omitted:
        notes.append(f"{fields.rules.omitted} are left out")
    if fields.rules.caveat:
        notes.append(fields.rules.caveat)
    if as_family:
        own = fields.own.get("model_type") or fields.outer.get("model_type") or "without a model_type"
        notes.append(f"a {own} model sized as {as_family}, as asked: what its own code does otherwise is not in these figures")
    if fields.rules is UNKNOWN:
        notes.append("an architecture that kvplan does not know, read as a plain decoder")
    if not fields.whole:
        notes.append("the config has no model_type: the family was read from `architectures`")
    return tuple(notes)
