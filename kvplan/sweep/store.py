"""Where a sweep keeps its runs, so that it goes on where it stopped: an SQLite file with one writer."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from kvplan import outputs
from kvplan.errors import InputError, from_os
from kvplan.sweep.keys import version
from kvplan.sweep.run import Failure, Outcome
from kvplan.sweep.values import Point

LAYOUT = "1"
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (key TEXT PRIMARY KEY, point TEXT NOT NULL, result TEXT, error TEXT, lasting INTEGER NOT NULL);
"""
_AT_ONCE = 500


class Store:
    """An open file of runs; this process alone writes to it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection

    def known(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes of those runs that are there; a failure that may go away is not."""
        found: dict[str, Outcome] = {}
        wanted = list(keys)
        for at in range(0, len(wanted), _AT_ONCE):
            some = wanted[at : at + _AT_ONCE]
            places = ",".join("?" * len(some))
            rows = self._connection.execute(f"SELECT key, result, error FROM runs WHERE lasting AND key IN ({places})", some)
            found |= {key: Failure(error) if result is None else result.encode() for key, result, error in rows}
        return found

    def put(self, key: str, point: Point, outcome: Outcome) -> None:
        """Keep a run. Raises MissingError when the disk is full."""
        failed = isinstance(outcome, Failure)
        row = (
            key,
            msgspec.json.encode(point).decode(),
            None if isinstance(outcome, Failure) else outcome.decode(),
            outcome.message if isinstance(outcome, Failure) else None,
            int(not failed or (isinstance(outcome, Failure) and outcome.lasting)),
        )
        try:
            self._connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.OperationalError as error:
            raise from_os(OSError(28, str(error)), self.path) from None


def default_file(source: str) -> Path:
    """The store of a source in the user's cache, one for each version. Raises InputError or MissingError where none can be made."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvplan" / "sweeps"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(source).expanduser()
        where = sha256(str(name.resolve() if name.exists() else name).encode()).hexdigest()[:8]
    except OSError as error:
        raise from_os(error, folder) from None
    return folder / f"{name.stem}-{where}-{version()}.sqlite"


@contextmanager
def opened(path: str | Path) -> Iterator[Store]:
    """The store in a file, made where there is none.

    Raises InputError for a file that is no store, holds runs of another version, or that another sweep is writing to.
    """
    file = outputs.check(path)
    try:
        connection = sqlite3.connect(file, timeout=0.0, isolation_level=None)
    except sqlite3.Error as error:
        raise InputError(f"{path}: {error}") from None
    try:
        _own(connection, path)
        yield Store(file, connection)
    finally:
        connection.close()


def _own(connection: sqlite3.Connection, path: str | Path) -> None:
    """Take the file for this process alone, for as long as it is open."""
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not {"meta", "runs"} <= tables:
            raise InputError(f"{path}: a database, but not of a sweep", hint="name another file with --db")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        if not tables:
            for statement in _TABLES.strip().split("\n"):
                connection.execute(statement)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", [("layout", LAYOUT), ("version", version())])
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another sweep is writing to it", hint="wait for it, or name another file with --db") from None
        raise InputError(f"{path}: {error}") from None
    except sqlite3.DatabaseError:
        raise InputError(f"{path}: not a database", hint="--db names the file that a sweep keeps its runs in") from None
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    if meta.get("layout") != LAYOUT or meta.get("version") != version():
        raise InputError(
            f"{path}: holds runs of kvplan {meta.get('version', 'unknown')}; this is {version()}, whose runs may come out otherwise",
            hint="name another file with --db; the old one can still be read with SQLite",
        )
