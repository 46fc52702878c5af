"""Every family of models that kvplan reads, and those that it refuses: model_type -> what its code decides."""

from __future__ import annotations

from dataclasses import replace

from kvplan.model import attention, compressed, linear, loops, recurrent, variants, windowed, windows
from kvplan.model.config import Family
from kvplan.model.ffn import (
    adjusted_width,
    beside_two_dense,
    dense_shared,
    ffn,
    half_width,
    layers_of_their_own,
    no_ffn,
    one_shared,
    shared_stacks,
    two_kinds_of_experts,
    wider_where_shared,
    width_of,
)


def _all(names: str, family: Family) -> dict[str, Family]:
    return dict.fromkeys(names.split(), family)


_PLAIN = Family(layers=attention.plain, ffn=ffn)
_LISTED = replace(_PLAIN, windows=windows.listed)
_OLD = replace(_PLAIN, multi_head=True, matrices=2)
_SLIDING = replace(_PLAIN, windows=windows.all_slide)
_QWEN = replace(_PLAIN, windows=windows.from_max_window_layers)
_LATENT = Family(layers=attention.latent, ffn=ffn)
_LLAMA4 = Family(layers=variants.llama4, ffn=ffn)
_KV_SHARING = Family(layers=variants.gemma_shared, ffn=ffn)
_ENCODED = Family(
    layers=variants.cross_decoder,
    ffn=ffn,
    depth=("decoder_layers", "num_decoder_layers", "num_layers"),
    multi_head=True,
    matrices=2,
    encoder=True,
)
_ENCODER_ONLY = replace(_PLAIN, refused="an encoder keeps no KV cache", unread=("architectures",))
_TIERED = replace(
    _PLAIN,
    caveat="the engine cuts this family's tiers into pages of their own, and its steps read chosen tokens only: "
    "what it reserves and how long steps take is approximate, the logical bytes are exact",
)
_V4 = replace(_TIERED, caveat=f"{_TIERED.caveat}; FlashMLA keeps fp8 rows of 584 bytes whatever dtype is asked: --kv-dtype fp8 shows them")

FAMILIES: dict[str, Family] = {
    **_all(
        "llama ministral ministral3 qwen3_vl qwen3_vl_text qwen3_vl_moe qwen3_vl_moe_text qwen2_audio qwen2_5_omni_text "
        "qwen3_omni_moe_text gemma cohere granite granitemoe granitemoeshared olmo olmo2 olmoe stablelm internlm internlm2 internlm3 "
        "orion aquila solar yi minicpm minimax_m2 glm glm4 glm4_moe glm_ocr_text glm4v_text glm4v_moe_text glm4v_moe ernie4_5 ernie4_5_moe "
        "seed_oss smollm3 exaone dots1 bailing_moe bailing_moe_v2 flex_olmo helium vaultgemma "
        "hy_v3 solar_open hyperclovax bailing_moe_v3 sarvam_moe param2moe pangu_embedded telechat telechat3 nanbeige iquestcoder "
        "minicpmv minicpmo dots_ocr paddleocr_vl paddleocr_vl_text keye KeyeVL1_5 isaac chameleon midashenglm gritlm "
        "diffllama deepseek smolvlm idefics3 llava pixtral aria_text telechat2 mllama_text",
        _PLAIN,
    ),
    **_all("gpt2 gptj gpt_neox gpt_neox_japanese codegen opt bloom phi-msft xglm biogpt persimmon", _OLD),
    **_all("baichuan xverse jais", replace(_PLAIN, multi_head=True)),
    "qwen": replace(_PLAIN, multi_head=True, width=half_width),
    **_all(
        "phi nemotron arcee apertus apertus1p5 apertus1p5_text jais2 nanochat cosmos3_edge cosmos3_edge_text", replace(_PLAIN, matrices=2)
    ),
    **_all("ernie4_5_vl_moe ernie4_5_vl_moe_text ernie4_5_moe_vl", replace(_PLAIN, ffn=two_kinds_of_experts)),
    **_all("mistral mixtral phi3 phi4_multimodal phimoe", _SLIDING),
    **_all("phi3_v phi4mm", replace(_SLIDING, omitted="unless its parameters are known, the weights of its vision and audio parts")),
    "voxtral_realtime_text": _SLIDING,
    **_all("kolibri1 granite_swa granitemoe_swa mellum beam rnj1 flint", _LISTED),
    "cohere_compass_text": _LISTED,
    **_all("muse_spark_text muse_glimmer_text", replace(_LISTED, gated=True)),
    "step1": replace(_PLAIN, kv_names=("num_attention_groups",)),
    **_all("molmo2_text molmo2", replace(_PLAIN, width=width_of("intermediate_size"))),
    "molmo": replace(_PLAIN, width=half_width, omitted="unless its parameters are known, the weights of its vision tower"),
    "plamo3": Family(layers=windowed.plamo3, ffn=ffn),
    "domyn_edge": Family(layers=windowed.domyn_edge, ffn=ffn),
    "ouro": Family(layers=loops.ouro, ffn=ffn),
    "iquest_loopcoder": Family(layers=loops.loopcoder, ffn=ffn),
    "starcoder2": replace(_SLIDING, matrices=2),
    **_all("qwen2 qwen2_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen3 qwen3_moe mimo", _QWEN),
    **_all("gemma2 gpt_oss", replace(_PLAIN, windows=windows.alternate)),
    **_all("gemma3 gemma3_text", replace(_PLAIN, windows=windows.pattern(6))),
    "cohere2": replace(_PLAIN, windows=windows.pattern(4), window_extra=1),
    "cohere2_moe": replace(_LISTED, window_extra=1, width=width_of("prefix_dense_intermediate_size")),
    **_all("olmo3 exaone4 exaone4_5_text exaone_moe", replace(_PLAIN, windows=windows.pattern(4))),
    "cwm": replace(_PLAIN, windows=windows.first_of_four),
    "afmoe": replace(_PLAIN, windows=windows.global_every, gated=True),
    **_all("deepseek_v2 deepseek_v3 deepseek_vl_v2 deepseek_ocr2_text kimi_k2 glm4_moe_lite youtu", _LATENT),
    "minicpm3": replace(_LATENT, caveat="vLLM stores its latent as K and V of every head, V as wide as K: what it reserves is that"),
    **_all("deepseek_v32 glm_moe_dsa", replace(_LATENT, indexer=True)),
    **_all("longcat_flash longcat_flash_ngram", replace(_LATENT, mixers=2, ffn=beside_two_dense)),
    "llama4": _LLAMA4,
    "llama4_text": replace(_LLAMA4, width=width_of("intermediate_size_mlp"), shared_width=one_shared),
    **_all("gemma3n gemma3n_text", replace(_KV_SHARING, windows=windows.period(5))),
    **_all(
        "gemma4 gemma4_text gemma4_unified gemma4_unified_text",
        replace(_KV_SHARING, windows=windows.period(6, last_full=True), shared_width=dense_shared, ffn=wider_where_shared),
    ),
    **_all("bart mbart pegasus whisper m2m_100 marian", _ENCODED),
    **_all("t5 mt5 umt5", replace(_ENCODED, matrices=0)),
    **_all("mllama mllama_text_model", Family(layers=variants.mllama, ffn=ffn)),
    "mpt": Family(layers=variants.nested_attention, ffn=ffn, matrices=2),
    "dbrx": Family(layers=variants.nested_attention, ffn=ffn),
    **_all("step3p5 step3p7", Family(layers=windowed.step3, ffn=ffn)),
    **_all("nemotron-nas deci", Family(layers=variants.block_configs, ffn=ffn)),
    "falcon": Family(layers=variants.falcon, ffn=ffn, matrices=2),
    "gpt_bigcode": Family(layers=variants.bigcode, ffn=ffn, matrices=2),
    "chatglm": Family(layers=variants.chatglm, ffn=ffn),
    "gpt_neo": replace(_OLD, layers=variants.gpt_neo),
    **_all("hunyuan hunyuan_v1_dense hunyuan_v1_moe", Family(layers=variants.hunyuan, ffn=ffn)),
    **_all("mimo_v2_flash mimo_v2", Family(layers=windowed.mimo_v2, ffn=ffn)),
    "openelm": Family(
        layers=variants.openelm, ffn=no_ffn, depth=("num_transformer_layers",), omitted="the weights of its feed-forward layers"
    ),
    "bamba": Family(layers=recurrent.bamba, ffn=ffn),
    "granitemoehybrid": Family(layers=recurrent.bamba, ffn=ffn, width=width_of("shared_intermediate_size")),
    **_all("mamba falcon_mamba", Family(layers=recurrent.mamba, ffn=no_ffn)),
    "mamba2": Family(layers=recurrent.mamba2, ffn=no_ffn),
    "jamba": Family(layers=recurrent.jamba, ffn=ffn),
    "falcon_h1": Family(layers=recurrent.falcon_h1, ffn=ffn),
    "nemotron_h": Family(layers=recurrent.nemotron_h, ffn=recurrent.nemotron_ffn, matrices=2),
    "zamba2": Family(layers=recurrent.zamba2, ffn=no_ffn, omitted="the weights of its feed-forward layers"),
    **_all("qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text", Family(layers=linear.qwen_hybrid, ffn=ffn)),
    "kimi_linear": Family(layers=linear.kimi_linear, ffn=ffn),
    **_all("minimax minimax_text_01 minimax_m1", Family(layers=linear.minimax, ffn=ffn)),
    "lfm2": Family(layers=recurrent.lfm2, ffn=ffn, width=adjusted_width),
    **_all("lfm2_moe lfm3", Family(layers=recurrent.lfm2, ffn=ffn)),
    "recurrent_gemma": Family(layers=recurrent.recurrent_gemma, ffn=ffn, width=half_width),
    "deepseek_v4": replace(_V4, layers=compressed.deepseek_v4),
    **_all(
        "deepseek_v41 deepseek_v41_text",
        replace(_V4, layers=compressed.deepseek_v41, omitted="the weights of its compressors and n-gram tables"),
    ),
    **_all(
        "minimax_m3 minimax_m3_vl minimax_m3_vl_text",
        replace(_TIERED, layers=compressed.minimax_m3, width=width_of("dense_intermediate_size")),
    ),
    **_all("qwen4_exp qwen4_exp_text", replace(_TIERED, layers=compressed.qwen4_exp, omitted="the weights of its n-gram tables")),
    **_all("glm5_next glm5_next_text", replace(_TIERED, layers=compressed.glm5_next)),
    **_all("dots3_note dots3_note_text", replace(_TIERED, layers=compressed.dots3)),
    "step5": replace(_TIERED, layers=compressed.step5),
    **_all("hy_v4 hy_v4_vl_text", replace(_LATENT, indexer=True, gated=True)),
    **_all("mistral4 axk1 mistral_large4_text sarvam_mla pangu_ultra_moe openpangu", _LATENT),
    "bailing_hybrid": Family(layers=linear.bailing_hybrid, ffn=ffn),
    "bailing_moe_linear": Family(layers=linear.bailing_linear, ffn=ffn),
    "olmo_hybrid": Family(layers=linear.olmo_hybrid, ffn=ffn),
    "phi4flash": Family(layers=recurrent.phi4flash, ffn=ffn),
    "hymba": Family(layers=recurrent.hymba, ffn=ffn, caveat="its 128 memory tokens, which stand before every prompt, are not counted"),
    "step3_text": Family(layers=variants.step3_text, ffn=ffn),
    "laguna": Family(layers=variants.laguna, ffn=ffn),
    "baichuan_m1": Family(layers=variants.baichuan_m1, ffn=ffn),
    "inkling_text": Family(layers=variants.inkling, ffn=ffn),
    "inkling2_loop_text": Family(layers=loops.inkling_loop, ffn=ffn, caveat="the states of its short convolutions are left out"),
    "zaya": Family(layers=variants.zaya, ffn=ffn, caveat="the states of its short convolutions, under 0.1 % of the whole, are left out"),
    "hrm_text": Family(layers=loops.hrm_text, ffn=shared_stacks),
    "dory": Family(layers=variants.dory, ffn=layers_of_their_own),
    **_all("bert roberta xlm-roberta distilbert modernbert electra deberta-v2 albert nomic_bert vit clip siglip", _ENCODER_ONLY),
}
"""model_type -> family. A new family is one entry."""

UNKNOWN = replace(_PLAIN)
"""How a family that is not listed is read, if at all."""


def family(name: str) -> Family:
    """The family of a model_type."""
    return FAMILIES.get(name, UNKNOWN)
