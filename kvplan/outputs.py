"""Files that are written: whole or not at all, through links, never over what is read."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kvplan.errors import InputError, MissingError, from_os

STDOUT = "-"


@contextmanager
def whole(path: str | Path, *, sources: Iterable[str | Path] = ()) -> Iterator[BinaryIO]:
    """A binary stream that becomes the file at `path` when the block ends well, and leaves what is there when it does not.

    A symbolic link is followed, a pipe or device is written to as it is, `-` is stdout. Raises InputError for a folder and for an
    output that is one of its own `sources`, KvplanError where the file cannot be written.
    """
    if str(path) == STDOUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = check(path, sources=sources)
    if _is_special(target):
        with target.open("wb") as stream:
            yield stream
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise from_os(error, path) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise from_os(error, path) from None
    except BaseException:
        _remove(temporary)
        raise


def check(path: str | Path, *, sources: Iterable[str | Path] = ()) -> Path:
    """The file that a path leads to, before any work. Raises InputError when it cannot be written there."""
    target = Path(path).expanduser()
    try:
        if _is_special(target):  # before links are followed: /dev/stdout leads to a pipe that has no name
            return target
        target = target.resolve(strict=False)
        if target.is_dir():
            raise InputError(f"{path}: is a folder", hint="name a file in it")
        if not target.parent.is_dir():
            raise InputError(f"{path}: the folder {target.parent} does not exist")
        for source in sources:
            if str(source) != STDOUT and target.exists() and Path(source).expanduser().exists() and os.path.samefile(source, target):
                raise InputError(f"{path}: is what is read", hint="name another file")
    except OSError as error:
        raise from_os(error, path) from None
    if not os.access(target.parent, os.W_OK):
        raise MissingError(f"{path}: the folder {target.parent} is not writable")
    return target


def _is_special(path: Path) -> bool:
    """Is this a pipe or a device, which is written to as it is."""
    return path.exists() and not path.is_file() and not path.is_dir()


def replaced(path: str | Path) -> str:
    """The words that say a file will be overwritten; empty when there is none."""
    target = Path(path).expanduser()
    return " (overwritten)" if str(path) != STDOUT and not str(path).startswith("/dev/") and target.is_file() else ""


def write(path: str | Path, content: bytes, *, sources: Iterable[str | Path] = ()) -> None:
    """Write a file in one step."""
    with whole(path, sources=sources) as stream:
        stream.write(content)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
