"""What a user may say about a trace that its file does not say itself."""

from __future__ import annotations

import msgspec

PER_SECOND: dict[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`block_tokens` is the size of the blocks that the file's ids name and `time_unit` the unit of its times; None:
    the format's own.

    `tokenizer` is the path of a Hugging Face `tokenizer.json` for formats that hold text.
    """

    block_tokens: int | None = None
    time_unit: str | None = None
    tokenizer: str | None = None

    def per_second(self, default: str) -> float:
        return PER_SECOND[self.time_unit or default]
