"""Standard streams that cannot surprise a command: closed ones, and pipes whose reader has gone."""

from __future__ import annotations

import io
import os
import sys


class _Pipe(io.FileIO):
    """A stream whose reader may go away: what it no longer reads is dropped, so that the command ends with its own exit code.

    Any other failure is raised once: what is still buffered then has nowhere to go.
    """

    failed = False

    def write(self, data: object) -> int:
        if not self.failed:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except BrokenPipeError:
                self.failed = True
            except OSError:
                self.failed = True
                raise
        return len(data)  # type: ignore[arg-type]


def prepare() -> None:
    """Make stdout and stderr safe to write to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long as the process lives
        elif isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            raw = io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False))
            safe = io.TextIOWrapper(raw, stream.encoding, errors="replace", line_buffering=stream.isatty())
            setattr(sys, name, safe)
