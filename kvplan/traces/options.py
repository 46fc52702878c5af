"""What a user may say about a trace that the file does not say itself."""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`block_tokens` is the size of the blocks that the file's ids name; None: the format's own."""

    block_tokens: int | None = None
