"""Bytes of a trace file, line by line: plain, gzip, zstd or Parquet, with limits that stop hostile files."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from kvplan.errors import InputError, MissingError

STDIN = "-"
MAX_LINE_BYTES = 16 * 2**20
MAX_BLANK_LINES = 100_000
MAX_DOCUMENT_BYTES = 2**30
"""A format that is one JSON document has to be held whole."""
BOMB_BYTES, BOMB_RATIO = 256 * 2**20, 500
"""A compressed file stops beyond this many bytes when it also grew beyond this ratio; request traces reach about 20,
ones that repeat long lists of ids some hundreds under zstd.
"""

_GZIP, _ZSTD, _PARQUET, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"
_HEAD_BYTES = 64 * 1024


class TraceSource(Protocol):
    """One file of a trace.

    `head` is its beginning: the first line whole, and some more. `ordinal` tells the files of a directory apart.
    """

    path: Path
    ordinal: int
    head: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Line number (from 1) and bytes of each line that is not blank."""

    def document(self) -> bytes:
        """The whole file."""

    def error(self, line: int, message: str, *, hint: str = "") -> InputError:
        """An InputError that names this file and a line."""


def open_source(path: Path, ordinal: int = 0) -> TraceSource:
    """The source of a file by its first bytes. Raises InputError when it is missing, unreadable or empty."""
    file = path if path.is_file() or (not path.exists() and str(path) != STDIN) else _spooled(path)
    with _readable(path), open(file, "rb") as stream:
        magic = stream.read(4)
    source: TraceSource = _Parquet(path, file, ordinal) if magic == _PARQUET else _Text(path, file, ordinal)
    if not source.head.strip():
        raise InputError(f"{path}: the trace is empty")
    return source


_spools: list[Any] = []
"""Copies of what came through pipes, which go when the process ends."""


def _spooled(path: Path) -> Path:
    """A copy of a pipe or of standard input, whose beginning is looked at before all of it is read."""
    if path.is_block_device():
        raise InputError(f"{path}: a block device holds no trace")
    with _readable(path):
        copy = tempfile.NamedTemporaryFile(prefix="kvplan-")  # noqa: SIM115 - kept until the process ends
        _spools.append(copy)
        with contextlib.nullcontext(sys.stdin.buffer) if str(path) == STDIN else open(path, "rb") as stream:
            shutil.copyfileobj(stream, copy)
        copy.flush()
    return Path(copy.name)


class _Text:
    def __init__(self, path: Path, file: Path, ordinal: int) -> None:
        self.path, self._file, self.ordinal = path, file, ordinal
        with _readable(path), self._open() as stream:
            head = stream.readline(MAX_LINE_BYTES + 1)
            self.head = (head + stream.read(max(0, _HEAD_BYTES - len(head)))).removeprefix(_BOM)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Raises InputError on a line that is too long or not UTF-8."""
        with _readable(self.path), self._open() as stream:
            number = blank = 0
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
                    continue
                blank += 1
                if blank > MAX_BLANK_LINES:
                    raise self.error(number, f"more than {MAX_BLANK_LINES:,} blank lines")

    def document(self) -> bytes:
        """Raises InputError above MAX_DOCUMENT_BYTES."""
        with _readable(self.path), self._open() as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{self.path}: one document of more than {MAX_DOCUMENT_BYTES:,} bytes",
                hint="split it, or write one JSON object a line",
            )
        return data.removeprefix(_BOM)

    def error(self, line: int, message: str, *, hint: str = "") -> InputError:
        return InputError(f"{self.path}, line {line}: {message}", hint=hint)

    def _check_utf8(self, number: int, line: bytes) -> None:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise self.error(number, f"not UTF-8 text (byte {error.start + 1} of the line)") from None

    def _open(self) -> BinaryIO:
        raw = open(self._file, "rb")  # noqa: SIM115 - closed by the stream that is returned
        magic = raw.peek(4)[:4]
        if magic.startswith(_GZIP):
            return io.BufferedReader(_Watched(gzip.GzipFile(fileobj=raw), raw, self.path), 2**18)
        if magic.startswith(_ZSTD):
            return io.BufferedReader(_Watched(_zstd(raw), raw, self.path), 2**18)
        return raw


class _Parquet:
    """A Parquet file as lines of JSON, so that every reader of rows reads it too."""

    def __init__(self, path: Path, file: Path, ordinal: int) -> None:
        self.path, self._file, self.ordinal = path, file, ordinal
        self.head = next((line for _, line in self.lines()), b"")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        parquet = package("pyarrow.parquet", "a Parquet file")
        number = 0
        with _readable(self.path):
            for batch in parquet.ParquetFile(self._file).iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield number, msgspec.json.encode({key: value for key, value in row.items() if value is not None})

    def document(self) -> bytes:
        return b"[" + b",".join(line for _, line in self.lines()) + b"]"

    def error(self, line: int, message: str, *, hint: str = "") -> InputError:
        return InputError(f"{self.path}, row {line}: {message}", hint=hint)


class _Watched(io.RawIOBase):
    """A decompressing stream that stops a file which blows up: beyond BOMB_BYTES at more than BOMB_RATIO times its
    size.
    """

    def __init__(self, stream: Any, raw: BinaryIO, path: Path) -> None:
        self._stream, self._raw, self._path, self._read = stream, raw, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > BOMB_BYTES and self._read > BOMB_RATIO * self._raw.tell():
            raise InputError(f"{self._path}: stopped at {self._read:,} bytes, over {BOMB_RATIO} times what was read of it")
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        super().close()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns failures of reading and decompressing into one InputError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is damaged or cut off ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        # zstandard and pyarrow are optional, so that their own errors can be known by name only.
        if type(error).__module__.partition(".")[0] in ("zstandard", "pyarrow"):
            raise InputError(f"{path}: the file is damaged or cut off ({error})") from None
        raise


def _zstd(raw: BinaryIO) -> Any:
    return package("zstandard", "a .zst file").ZstdDecompressor().stream_reader(raw, read_across_frames=True)


def package(name: str, what: str) -> Any:
    """An optional package. Raises MissingError with what it is for."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingError(
            f"{what} needs the package {name.partition('.')[0]}, which is not installed",
            hint="pip install 'kvplan[traces]'",
        ) from None
