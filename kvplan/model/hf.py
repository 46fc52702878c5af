"""From a Hugging Face config.json to a ModelSpec, family by family."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kvplan.errors import InputError
from kvplan.model import attention, families, recurrent
from kvplan.model.ffn import experts, ffn
from kvplan.model.fields import Fields
from kvplan.model.other import ENCODER_DECODERS, other_params
from kvplan.model.quant import quantization
from kvplan.model.spec import Ffn, Layers, ModelSpec

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}

# fmt: off
_PLAIN = {
    "llama", "mistral", "mixtral", "ministral", "ministral3", "qwen", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl", "qwen3_vl_text",
    "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen2_audio", "qwen2_5_omni_text", "qwen3_omni_moe_text", "phi",
    "phi-msft", "phi3", "phi3_v", "phi4_multimodal", "phi4mm", "phimoe", "gemma", "gemma2", "gemma3", "gemma3_text",
    "cohere", "cohere2", "granite", "granitemoe", "granitemoeshared", "olmo", "olmo2", "olmo3", "olmoe",
    "stablelm", "starcoder2", "persimmon", "internlm", "internlm2", "internlm3", "baichuan", "xverse", "orion",
    "aquila", "solar", "yi", "mimo", "minicpm", "minimax_m2", "gpt_oss", "gpt2", "gptj", "gpt_neox",
    "gpt_neox_japanese", "codegen", "opt", "bloom", "jais", "glm", "glm4", "glm4_moe", "glm4v_text",
    "glm4v_moe_text", "glm4v_moe", "ernie4_5", "ernie4_5_moe", "ernie4_5_vl_moe_text", "cwm", "seed_oss",
    "smollm3", "arcee", "nemotron", "exaone", "exaone4", "exaone_moe", "apertus", "dots1", "afmoe",
    "bailing_moe", "bailing_moe_v2", "flex_olmo", "helium", "xglm", "biogpt", "vaultgemma", "diffllama",
    "deepseek", "smolvlm", "idefics3", "llava", "pixtral", "aria_text", "telechat2", "mllama_text",
}
# fmt: on
"""Families read by `attention.plain`: one kind of attention, or windows by `layer_types` or the rule of the family."""

READERS: dict[str, Callable[[Fields], tuple[Layers, ...]]] = {
    **dict.fromkeys(_PLAIN, attention.plain),
    **dict.fromkeys(
        (
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "kimi_k2",
            "glm_moe_dsa",
            "glm4_moe_lite",
            "minicpm3",
            "longcat_flash",
            "youtu",
        ),
        attention.latent,
    ),
    **dict.fromkeys(("llama4", "llama4_text"), families.llama4),
    **dict.fromkeys(("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"), families.gemma_shared),
    **dict.fromkeys(ENCODER_DECODERS, families.cross_decoder),
    **dict.fromkeys(("mllama", "mllama_text_model"), families.mllama),
    **dict.fromkeys(("mpt", "dbrx"), families.nested_attention),
    **dict.fromkeys(("step3p5", "step3p7"), families.step3),
    **dict.fromkeys(("bamba", "granitemoehybrid"), recurrent.bamba),
    **dict.fromkeys(("mamba", "falcon_mamba"), recurrent.mamba),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), recurrent.qwen_hybrid),
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), recurrent.minimax),
    **dict.fromkeys(("lfm2", "lfm2_moe"), recurrent.lfm2),
    **dict.fromkeys(("nemotron-nas", "deci"), families.block_configs),
    "falcon": families.falcon,
    "gpt_bigcode": families.bigcode,
    "chatglm": families.chatglm,
    "gpt_neo": families.gpt_neo,
    **dict.fromkeys(("hunyuan", "hunyuan_v1_dense", "hunyuan_v1_moe"), families.hunyuan),
    "mimo_v2_flash": families.mimo_v2,
    "openelm": families.openelm,
    "mamba2": recurrent.mamba2,
    "jamba": recurrent.jamba,
    "falcon_h1": recurrent.falcon_h1,
    "nemotron_h": recurrent.nemotron_h,
    "zamba2": recurrent.zamba2,
    "kimi_linear": recurrent.kimi_linear,
    "recurrent_gemma": recurrent.recurrent_gemma,
}
"""model_type -> reader of its layers. A new family is one entry."""

_REFUSED = {
    "deepseek_v4": (
        "its compressed sparse attention keeps a mix of compressed and raw entries of no confirmed size",
        ("compress_ratios",),
    ),
    **dict.fromkeys(
        ("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
        ("its sparse block index has no confirmed size", ("sparse_attention_config",)),
    ),
    **dict.fromkeys(
        (
            "bert",
            "roberta",
            "xlm-roberta",
            "distilbert",
            "modernbert",
            "electra",
            "deberta-v2",
            "albert",
            "nomic_bert",
            "vit",
            "clip",
            "siglip",
        ),
        ("an encoder keeps no KV cache", ("architectures",)),
    ),
}

_ORDINARY = re.compile(
    r"^(_.*|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|vocab_size|hidden_size|head_dim"
    r"|num_hidden_layers|num_attention_heads|num_key_value_heads|intermediate_size|max_position_embeddings|use_cache"
    r"|tie_word_embeddings|pretraining_tp|initializer_.*|.*_token_id|.*_eps|.*_epsilon|.*dropout.*|.*_bias|bias|.*_act|activation.*"
    r"|rope_.*|rotary_.*|partial_rotary_factor|original_max_position_embeddings|.*_multiplier|.*softcap.*|.*scaling.*|use_qk_norm"
    r"|qk_norm.*|quantization_config|num_experts.*|n_routed_experts|n_shared_experts|num_local_experts|num_shared_experts"
    r"|moe_intermediate_size|shared_expert.*|norm_topk_prob|router_.*|topk_.*|n_group|scoring_func|first_k_dense_replace"
    r"|decoder_sparse_step|mlp_only_layers|num_nextn_predict_layers|use_sliding_window|sliding_window|output_.*|return_dict.*"
    r"|task_specific_params|problem_type|id2label|label2id|torchscript|pruned_heads|is_decoder|gradient_checkpointing)$"
)
"""Fields of plain decoders. A family that kvplan does not know may have these and no others that are set."""


def from_hf_config(config: dict[str, Any], *, name: str, where: str = "", source: str = "", params: int = 0) -> ModelSpec:
    """A model from a Hugging Face config.json (the decoder inside it when nested).

    `params` is the maker's total where known. Raises InputError, naming the fields, when the family is unknown
    and has fields that kvplan cannot interpret, or when a field that the KV cache depends on is missing.
    """
    fields = Fields(config, where or name)
    if not config:
        raise InputError(f"{fields.where}: an empty config")
    if fields.family in _REFUSED:
        reason, names = _REFUSED[fields.family]
        raise fields.refuse(reason, *names)
    reader = READERS.get(fields.family) or _unknown(fields)
    layers = tuple(layer for layer in reader(fields) if layer.count)
    hidden = attention.hidden_size(fields)
    return ModelSpec(
        name=name,
        family=fields.family,
        depth=_depth(fields),
        hidden=hidden,
        vocab=fields.number("vocab_size", "padded_vocab_size") or 0,
        layers=layers,
        ffn=_ffn(fields, layers),
        max_context_tokens=_max_context(fields),
        dtype=_dtype(fields),
        tied_embeddings=_tied(fields),
        declared_params=params,
        other_params=other_params(fields),
        quantization=quantization(fields, expert_model=bool(experts(fields))),
        source=source,
        notes=_notes(fields),
    )


def _depth(fields: Fields) -> int:
    if fields.family in ENCODER_DECODERS:
        return fields.need("decoder_layers", "num_decoder_layers", "num_layers")
    return fields.number("num_transformer_layers") or attention.layer_count(fields)


def _unknown(fields: Fields) -> Callable[[Fields], tuple[Layers, ...]]:
    """Plain attention for an unknown family, if all that its config sets belongs to plain decoders."""
    unset: tuple[object, ...] = (None, False, [], {}, "")
    strange = [key for key, value in fields.own.items() if not _ORDINARY.match(key) and value not in unset]
    if fields.get("sliding_window") and fields.get("use_sliding_window") is not False:
        strange.append("sliding_window")
    if strange or fields.given("num_key_value_heads") is None:
        names = strange or ["num_key_value_heads"]
        reason = "kvplan does not know this architecture and cannot interpret what its KV cache may depend on"
        raise fields.refuse(reason, *names[:6])
    return attention.plain


def _ffn(fields: Fields, layers: tuple[Layers, ...]) -> tuple[Ffn, ...]:
    if fields.family == "nemotron_h":
        return _nemotron_ffn(fields)
    if all(layer.kind == "state" for layer in layers) or fields.family == "zamba2":
        return ()
    if fields.family in ENCODER_DECODERS:
        return ffn(fields, layers[0].count)
    if fields.family == "openelm":
        return ()
    return ffn(fields)


def _nemotron_ffn(fields: Fields) -> tuple[Ffn, ...]:
    types = recurrent.nemotron_types(fields)
    sparse, dense = types.count("moe"), types.count("mlp")
    groups = []
    if dense:
        groups.append(Ffn(count=dense, width=fields.need("intermediate_size"), matrices=2))
    if sparse:
        groups.append(ffn(fields, sparse)[-1])
    return tuple(groups)


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


def _notes(fields: Fields) -> tuple[str, ...]:
    taken = sorted(set(fields.defaulted) - {"tie_word_embeddings", "vocab_size"})
    notes = [f"{', '.join(taken)}: absent from the config, taken from the defaults of {fields.family}"] if taken else []
    wrapped = str((fields.outer.get("architectures") or [""])[0]).endswith("ConditionalGeneration")
    if wrapped and fields.family not in ENCODER_DECODERS and not fields.outer.get("vision_config"):
        notes.append("the config does not describe its vision or audio tower, whose weights are left out")
    if fields.family in ("zamba2", "openelm"):
        notes.append("the weights of its feed-forward layers are left out")
    if fields.family not in READERS:
        notes.append("an architecture that kvplan does not know, read as a plain decoder")
    if not fields.whole:
        notes.append("the config has no model_type: the family was read from `architectures`")
    return tuple(notes)
