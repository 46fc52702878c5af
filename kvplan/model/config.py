"""A Hugging Face config.json and the rules of its family: any of several names, the family's defaults, and a clear refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kvplan.errors import InputError
from kvplan.model.spec import Ffn, Layers

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder_config")

_FAMILY_OF_ARCHITECTURE = {
    "RWForCausalLM": "falcon",
    "MixFormerSequentialForCausalLM": "phi-msft",
    "BaiChuanForCausalLM": "baichuan",
    "QWenLMHeadModel": "qwen",
    "ChatGLMModel": "chatglm",
    "Step3p5ForCausalLM": "step3p5",
    "DeciLMForCausalLM": "nemotron-nas",
}

Defaults = dict[str, dict[str, Any]]


@cache
def family_defaults() -> Defaults:
    """What Hugging Face transformers 5.23 assumes, per model_type, for fields that a config.json may leave out.

    Nested text configs are saved without fields that equal these (`PretrainedConfig.to_diff_dict`).
    """
    return msgspec.json.decode(Path(__file__).with_name("defaults.json").read_bytes(), type=Defaults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the code of a family decides and its configs do not say."""

    layers: Callable[[Fields], tuple[Layers, ...]]  # reads the token-mixing layers
    ffn: Callable[[Fields], tuple[Ffn, ...]]  # reads the feed-forward layers
    depth: tuple[str, ...] = ("num_hidden_layers", "n_layer", "n_layers", "num_decoder_layers", "decoder_layers", "num_layers")
    mixers: int = 1  # attentions in one layer
    multi_head: bool = False  # one K and one V per query head, whatever the config says
    kv_names: tuple[str, ...] = ()  # fields that give the KV heads before the usual ones
    windows: Callable[[Fields, int], list[str]] | None = None  # kinds of layers without `layer_types`; None: all are full
    window_extra: int = 0  # keys that engines keep beside `sliding_window`
    indexer: bool = False  # a sparse indexer even where `index_topk` is absent
    gated: bool = False  # an output gate as wide as the values in every attention
    matrices: int = 3  # of a feed-forward layer; 0: as `feed_forward_proj` says
    width: Callable[[Fields], int] | None = None  # of a dense feed-forward layer, where no usual field gives it
    shared_width: Callable[[Fields, int], int] | None = None  # of all shared experts, from the width of one expert
    encoder: bool = False  # an encoder in front of the decoder
    omitted: str = ""  # weights that are left out
    caveat: str = ""  # what else its figures leave out
    refused: str = ""  # why it cannot be sized
    unread: tuple[str, ...] = ()  # the fields that stand behind that reason


class Fields:
    """The decoder part of one config.json.

    `whole` says whether the file names its family: only then may a missing field take the family's default. `rules` are
    those of its family.
    """

    __slots__ = ("defaulted", "family", "looked_at", "outer", "own", "parts", "rules", "where", "whole")

    def __init__(self, config: dict[str, Any], where: str, rules: Callable[[str], Family], as_family: str = "") -> None:
        self.where = where
        self.outer = config
        own = config
        self.parts = [own]
        while (part := next((own[name] for name in _TEXT_PARTS if isinstance(own.get(name), dict)), None)) is not None:
            own = part
            self.parts.append(own)
        self.own = own
        named = own.get("model_type") or config.get("model_type")
        self.family = as_family or str(named or _of_architecture(own) or _of_architecture(config))
        self.whole = bool(as_family or named)
        self.rules = rules(self.family)
        self.defaulted: list[str] = []
        self.looked_at: set[str] = set()

    def get(self, *names: str) -> Any:
        """The first of the named fields that is given and not null; else the family's default; else None."""
        self.looked_at.update(names)
        for name in names:
            if self.own.get(name) is not None:
                return self.own[name]
        if self.whole:
            known = family_defaults().get(self.family, {})
            for name in names:
                if name not in self.own and known.get(name) is not None:
                    self.defaulted.append(name)
                    return known[name]
        return None

    def given(self, name: str) -> Any:
        """A field as the file gives it, without defaults."""
        self.looked_at.add(name)
        return self.own.get(name)

    def around(self, *names: str) -> dict[str, Any]:
        """A part of the config that is not the decoder's, such as a tower's, from the parts around the decoder."""
        return next((part[name] for part in self.parts for name in names if isinstance(part.get(name), dict)), {})

    def number(self, *names: str) -> int | None:
        """A whole number that is not negative, or None. Raises InputError on anything else."""
        value = self.get(*names)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one entry per layer, all equal
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value) or value < 0:
            raise InputError(f"{self.where}: {names[0]} = {value!r} is not a whole number")
        if value > 10**12:
            raise InputError(f"{self.where}: {names[0]} = {value!r} is not plausible")
        return int(value)

    def need(self, *names: str) -> int:
        """A whole number above zero. Raises InputError when it is missing."""
        value = self.number(*names)
        if not value:
            given = f" ({self.family})" if self.family else ""
            state = "zero" if value == 0 else "missing"
            raise InputError(
                f"{self.where}{given}: {' or '.join(names[:3])} is {state}, and sizes depend on it",
                hint="give the model's own config.json, as published",
            )
        return value

    def sequence(self, name: str, length: int) -> list[Any] | None:
        """A list with one entry per layer, or None when absent. Raises InputError when its length is wrong."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InputError(f"{self.where}: {name} is not a list")
        if len(value) < length:
            raise InputError(f"{self.where}: {name} has {len(value)} entries for {length} layers")
        return value[:length]

    def refuse(self, reason: str, *names: str, hint: str = "") -> InputError:
        """An error that names the fields which could not be interpreted."""
        given = ", ".join(f"{name} = {_short(self.own.get(name))}" for name in names)
        return InputError(f"{self.where} ({self.family}): {reason}{': ' + given if given else ''}", hint=hint)


def _of_architecture(config: dict[str, Any]) -> str:
    for name in config.get("architectures") or ():
        if name in _FAMILY_OF_ARCHITECTURE:
            return _FAMILY_OF_ARCHITECTURE[name]
        for stem in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"):
            if str(name).endswith(stem):
                return _snake(str(name).removesuffix(stem))
    return ""


def _snake(name: str) -> str:
    known = {"LLaMA": "llama", "GPTNeoX": "gpt_neox", "GPT2": "gpt2", "GPTJ": "gptj", "OPT": "opt", "MPT": "mpt"}
    return known.get(name, "".join(f"_{char.lower()}" if char.isupper() and i else char.lower() for i, char in enumerate(name)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
