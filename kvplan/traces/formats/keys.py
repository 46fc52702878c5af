"""Prefix keys from what files hold: content hashes, token ids, text."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from itertools import accumulate


def chained(contents: Iterable[Hashable], seed: int = 0) -> tuple[int, ...]:
    """Keys of blocks whose own contents are given, so that equal keys mean equal prefixes.

    Contents are integers or tuples of integers: Python hashes those alike in every run, to 64 bits.
    """
    return tuple(accumulate(contents, lambda parent, content: hash((parent, content)), initial=seed))[1:]


def of_tokens(ids: list[int], block_tokens: int) -> tuple[int, ...]:
    """Keys of the full blocks of a prompt's token ids."""
    full = len(ids) // block_tokens * block_tokens
    return chained(tuple(ids[at : at + block_tokens]) for at in range(0, full, block_tokens))


def of_text(text: str, block_chars: int) -> tuple[int, ...]:
    """Keys of the full blocks of a prompt's text, cut at every `block_chars` characters."""
    full = len(text) // block_chars * block_chars
    return chained(_digest(text[at : at + block_chars]) for at in range(0, full, block_chars))


def _digest(piece: str) -> int:
    return int.from_bytes(hashlib.blake2b(piece.encode(errors="replace"), digest_size=8).digest(), "little", signed=True)


def of_name(name: str) -> int:
    """A key for a block that is named by text."""
    return _digest(name)
