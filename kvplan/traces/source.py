"""Bytes of a trace file, line by line: plain, gzip or zstd, with limits that stop hostile files."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kvplan.errors import InputError, MissingError

MAX_LINE_BYTES = 16 * 2**20
MAX_DOCUMENT_BYTES = 2**30
"""A format that is one JSON document has to be held whole."""
BOMB_BYTES, BOMB_RATIO = 256 * 2**20, 200
"""A compressed file stops beyond this many bytes when it also grew beyond this ratio; request traces reach about 20."""

_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_HEAD_BYTES = 256 * 1024


class Source:
    """One file. `head` is its beginning, decompressed, for recognising the format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guarded(), self._open() as stream:
            self.head = stream.read(_HEAD_BYTES).removeprefix(_BOM)
        if not self.head.strip():
            raise InputError(f"{path}: the trace is empty")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Line number (from 1) and bytes of each line that is not blank. Raises InputError on a line that is too long or not UTF-8."""
        with self._guarded(), self._open() as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(_BOM)
                if len(line) > MAX_LINE_BYTES:
                    raise self.error(number, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
                if not line.isascii():
                    self._check_utf8(number, line)
                if not line.isspace():
                    yield number, line

    def document(self) -> bytes:
        """The whole file. Raises InputError above MAX_DOCUMENT_BYTES."""
        with self._guarded(), self._open() as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{self.path}: one document of more than {MAX_DOCUMENT_BYTES:,} bytes",
                hint="split it, or write one JSON object a line",
            )
        return data.removeprefix(_BOM)

    def error(self, line: int, message: str, *, hint: str = "") -> InputError:
        """An InputError that names this file and a line."""
        return InputError(f"{self.path}, line {line}: {message}", hint=hint)

    def _check_utf8(self, number: int, line: bytes) -> None:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise self.error(number, f"not UTF-8 text (byte {error.start + 1} of the line)") from None

    def _open(self) -> BinaryIO:
        raw = open(self.path, "rb")  # noqa: SIM115 - the caller closes it through the wrapper
        magic = raw.peek(4)[:4]
        if magic.startswith(_GZIP):
            return io.BufferedReader(_Watched(gzip.GzipFile(fileobj=raw), raw, self.path), 2**18)
        if magic.startswith(_ZSTD):
            return io.BufferedReader(_Watched(_zstd_reader(raw), raw, self.path), 2**18)
        return raw

    def _guarded(self) -> _Guard:
        return _Guard(self.path)


class _Guard:
    """Turns failures of reading and decompressing into one InputError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile) or type(error).__name__ == "ZstdError":
            raise InputError(f"{self.path}: the compressed file is damaged or cut off ({error})") from None
        if isinstance(error, OSError):
            raise InputError(f"{self.path}: {error.strerror or error}") from None


class _Watched(io.RawIOBase):
    """A decompressing stream that stops a file which blows up: more than BOMB_BYTES at more than BOMB_RATIO times its size."""

    def __init__(self, stream: BinaryIO | io.BufferedIOBase, raw: BinaryIO, path: Path) -> None:
        self._stream, self._raw, self._path, self._read = stream, raw, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > BOMB_BYTES and self._read > BOMB_RATIO * self._raw.tell():
            raise InputError(
                f"{self._path}: stopped at {self._read:,} bytes, more than {BOMB_RATIO} times its compressed size"
            )
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        super().close()


def _zstd_reader(raw: BinaryIO) -> BinaryIO:
    try:
        import zstandard
    except ImportError:
        raise MissingError("reading .zst needs the package zstandard", hint="pip install 'kvplan[traces]'") from None
    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
