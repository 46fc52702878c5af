"""From the names that people have for models to those of the catalog, without a network."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kvplan.catalog.shipped import decode_toml, folder, names

_FINISHES = {"instruct", "it", "hf", "chat", "base", "bf16", "fp16", "pt", "qat", "unquantized"}
"""Words for what a model was trained for, or a file made of: shapes are the same."""

_MAKERS = ("meta-", "nvidia-", "ai21-")

_FOUR_BITS = {"bits": 4, "group_size": 128}
QUANTISATIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "awq": {"quant_method": "awq", **_FOUR_BITS},
    "gptq": {"quant_method": "gptq", **_FOUR_BITS},
    "gptq-int4": {"quant_method": "gptq", **_FOUR_BITS},
    "gptq-4bit": {"quant_method": "gptq", **_FOUR_BITS},
    "gptq-int8": {"quant_method": "gptq", "bits": 8, "group_size": 128},
    "int4": {"quant_method": "gptq", **_FOUR_BITS},
    "w4a16": {"quant_method": "gptq", **_FOUR_BITS},
    "w8a8": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "w8a16": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "int8": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "fp8": {"quant_method": "fp8"},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "fp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"},
    "bnb-4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}
"""Word in a name -> the `quantization_config` that such files have (bf16: none): 4-bit integers in
groups of 128, 8 bits with a scale a channel."""

_WIDE = {"bf16", "fp16", "unquantized"}
"""Words that say that a file's weights are not quantised, whatever its base's are."""

_QUANTISED = re.compile(
    r"-(awq|gptq(?:-int[48]|-4bit|-8bit)?|gptqmodel|(?:quantized\.)?w4a16|(?:quantized\.)?w8a8|(?:quantized\.)?w8a16|int[48]|fp8|nvfp4|mxfp4|fp4"
    r"|autoround|auto-round|bnb-4bit|unsloth-bnb-4bit)(?:-(?:[48]bit|g128|g32|dynamic|block|kv|marlin|ct|qat))*$"
)
_EIGHT = re.compile(r"-(?:int8|8bit)(?:-|$)")
_FOUR_BIT_WORDS = ("awq", "gptq", "gptqmodel", "autoround", "auto-round")


class Named(NamedTuple):
    """A catalog name, the word for a quantisation that the asked name adds, and fields of its config that differ."""

    name: str
    quantised: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012 - never changed


class _Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    fields: dict[str, Any] = {}


def named(name: str) -> Named | None:
    """What a Hugging Face id or a name like one means; None where the catalog has no such model."""
    wanted = name.rpartition("/")[2].lower().replace("_", "-")
    if wanted.endswith("-unquantized"):  # trained for few bits, stored wide
        wanted = re.sub(r"-(int4|q4-0)(?=-)", "", wanted)
    if found := _plainly(wanted):
        return found._replace(quantised="bf16") if _WIDE & set(wanted.split("-")) else found
    quantised, eight = "", bool(_EIGHT.search(wanted))
    while match := _QUANTISED.search(wanted):
        quantised, wanted = match[1].removeprefix("quantized.").removeprefix("unsloth-"), wanted[: match.start()]
    if quantised.startswith(_FOUR_BIT_WORDS):
        quantised = "gptq-int8" if eight else quantised if quantised in QUANTISATIONS else "gptq"
    if quantised and (found := _plainly(wanted)):
        return found._replace(quantised=quantised)
    return None


def _plainly(wanted: str) -> Named | None:
    if wanted in names("models"):
        return Named(wanted)
    short = shape(wanted)
    if alias := _aliases().get(short):
        return Named(alias.model, fields=alias.fields)
    if found := _shapes().get(short):
        return Named(found)
    return None


def shape(name: str) -> str:
    """The part of a name that says what shape a model has."""
    words = [word for word in name.lower().replace("_", "-").split("-") if word not in _FINISHES]
    short = "-".join(words)
    for maker in _MAKERS:
        short = short.removeprefix(maker)
    return short


@cache
def _shapes() -> dict[str, str]:
    """Shape -> catalog name, by the catalog's own names and by the Hugging Face ids that its files name as their source."""
    found = {shape(name): name for name in names("models")}
    for path in folder("models").glob("*.json"):
        if match := re.search(r'"Hugging Face [\w.-]+/([\w.-]+)', path.read_text(encoding="utf-8")):
            found.setdefault(shape(match[1]), path.stem)
    return found


@cache
def _aliases() -> dict[str, _Alias]:
    return decode_toml(Path(__file__).with_name("model_names.toml"), dict[str, _Alias])
