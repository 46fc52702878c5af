"""From the names that people have for models to those of the catalog, without a network."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kvplan.catalog.shipped import decode_toml, folder, names

_FINISHES = {"instruct", "it", "hf", "chat", "base", "bf16", "fp16", "pt"}
"""Words for what a model was trained for, or a file made of: shapes are the same."""

_MAKERS = ("meta-", "nvidia-", "ai21-")

_FOUR_BITS = {"bits": 4, "group_size": 128}
QUANTISATIONS: dict[str, dict[str, Any]] = {
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
"""Word in a name -> the `quantization_config` that such files have: 4-bit integers in groups of 128, 8 bits with a scale a channel."""

_QUANTISED = re.compile(
    r"-(awq|gptq(?:-int[48]|-4bit)?|(?:quantized\.)?w4a16|(?:quantized\.)?w8a8|w8a16|int[48]|fp8|nvfp4|mxfp4|fp4|bnb-4bit|unsloth-bnb-4bit)"
    r"(?:-(?:int4|4bit|g128|g32|dynamic|block|kv|marlin))*$"
)


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
    if found := _plainly(wanted):
        return found
    quantised = ""
    while match := _QUANTISED.search(wanted):
        quantised, wanted = match[1].removeprefix("quantized.").removeprefix("unsloth-"), wanted[: match.start()]
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
