"""From a Hugging Face config.json to a ModelSpec, family by family."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kvplan.errors import InputError
from kvplan.model import attention, recurrent
from kvplan.model.ffn import experts, ffn
from kvplan.model.fields import Fields
from kvplan.model.other import other_params
from kvplan.model.quant import quantization
from kvplan.model.spec import Ffn, Layers, ModelSpec

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}

_PLAIN = set(
    """llama mistral mixtral ministral ministral3 qwen qwen2 qwen2_moe qwen3 qwen3_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen3_vl qwen3_vl_text
    qwen3_vl_moe qwen3_vl_moe_text qwen2_audio qwen2_5_omni_text qwen3_omni_moe_text phi phi-msft phi3 phi3_v phi4_multimodal phimoe gemma gemma2
    gemma3 gemma3_text cohere cohere2 granite granitemoe granitemoeshared olmo olmo2 olmo3 olmoe stablelm starcoder2 persimmon internlm internlm2 internlm3
    baichuan xverse orion aquila solar yi mimo minicpm minimax_m2 gpt_oss gpt2 gptj gpt_neox gpt_neox_japanese codegen opt bloom jais glm glm4
    glm4_moe glm4v_text glm4v_moe_text glm4v_moe ernie4_5 ernie4_5_moe hunyuan_v1_dense hunyuan_v1_moe seed_oss smollm3 arcee nemotron exaone exaone4 exaone_moe
    apertus dots1 afmoe bailing_moe bailing_moe_v2 flex_olmo helium xglm biogpt vaultgemma diffllama deepseek
    smolvlm idefics3 llava pixtral aria_text telechat2 mllama_text grok-1""".split()
)
"""Families read by `attention.plain`: one kind of attention, or windows by `layer_types` or the rule of the family."""

READERS: dict[str, Callable[[Fields], tuple[Layers, ...]]] = {
    **dict.fromkeys(_PLAIN, attention.plain),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa", "glm4_moe_lite", "minicpm3", "longcat_flash"), attention.latent),
    **dict.fromkeys(("llama4", "llama4_text"), attention.llama4),
    **dict.fromkeys(("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"), attention.gemma_shared),
    **dict.fromkeys(("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "whisper", "m2m_100", "marian"), attention.cross_decoder),
    **dict.fromkeys(("mllama", "mllama_text_model"), attention.mllama),
    **dict.fromkeys(("mpt", "dbrx"), attention.nested_attention),
    **dict.fromkeys(("step3p5", "step3p7"), attention.step3),
    **dict.fromkeys(("bamba", "granitemoehybrid"), recurrent.bamba),
    **dict.fromkeys(("mamba", "falcon_mamba"), recurrent.mamba),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), recurrent.qwen_hybrid),
    **dict.fromkeys(("minimax", "minimax_text_01"), recurrent.minimax),
    **dict.fromkeys(("lfm2", "lfm2_moe"), recurrent.lfm2),
    **dict.fromkeys(("nemotron-nas", "deci"), attention.block_configs),
    "falcon": attention.falcon,
    "gpt_bigcode": attention.bigcode,
    "chatglm": attention.chatglm,
    "gpt_neo": attention.gpt_neo,
    "hunyuan": attention.hunyuan,
    "mimo_v2_flash": attention.mimo_v2,
    "openelm": attention.openelm,
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
    "deepseek_v4": ("its compressed sparse attention keeps a mix of compressed and raw entries that kvplan has no confirmed size for", ("compress_ratios",)),
    **dict.fromkeys(
        ("minimax_m3", "minimax_m3_vl"),
        ("its sparse block index has no confirmed size", ("sparse_attention_config",)),
    ),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "electra", "deberta-v2", "albert", "nomic_bert", "vit", "clip", "siglip"),
        ("an encoder keeps no KV cache", ("architectures",)),
    ),
}

_SUSPICIOUS = re.compile(
    r"sliding|window|chunk_size|lora_rank|mamba|ssm|conv_|_conv|linear_(?!bias)|state_size|compress|sparse|index_|indexer|kv_shared|share_factor|use_cla|cross_att"
    r"|hybrid|block_configs|layer_types|layers_block|kda|recurrent|latent|swa|global_|local_|multi_query|v_head_dim|rwkv|retention|attn_type|attention_type|kv_dim"
    r"|time_(mix|decay|step)|memory"
)
_HARMLESS = re.compile(r"^(use_sliding_window|local_rank|chunk_size_feed_forward|output_.*|.*dropout.*)$")


def from_hf_config(config: dict[str, Any], *, name: str, where: str = "", source: str = "", params: int = 0) -> ModelSpec:
    """A model from a Hugging Face config.json (the decoder inside it when nested).

    `params` is the maker's total where known. Raises InputError, naming the fields, when the family is unknown and has fields that
    kvplan cannot interpret, or when a field that the KV cache depends on is missing.
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
        depth=_depth(fields, layers),
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


def _depth(fields: Fields, layers: tuple[Layers, ...]) -> int:
    return fields.number("num_transformer_layers") or (layers[0].count if layers[-1].kind == "cross" and fields.family != "mllama_text_model" else 0) or attention.layer_count(fields)


def _unknown(fields: Fields) -> Callable[[Fields], tuple[Layers, ...]]:
    """Plain attention for an unknown family, if nothing in its config speaks against it."""
    strange = [key for key, value in fields.own.items() if _SUSPICIOUS.search(key) and not _HARMLESS.match(key) and value not in (None, False, [], 0)]
    if strange or fields.given("num_key_value_heads") is None:
        names = strange or ["num_key_value_heads"]
        raise fields.refuse("kvplan does not know this architecture and cannot interpret what its KV cache depends on", *names[:6])
    return attention.plain


def _ffn(fields: Fields, layers: tuple[Layers, ...]) -> tuple[Ffn, ...]:
    if fields.family == "nemotron_h":
        return _nemotron_ffn(fields)
    if all(layer.kind == "state" for layer in layers) or fields.family == "zamba2":
        return ()
    if fields.family in ("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "whisper", "m2m_100", "marian"):
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
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "max_target_positions", "n_ctx", "model_max_length")
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
    if not fields.whole:
        notes.append("the config has no model_type: the family was read from `architectures`")
    return tuple(notes)
