"""What a run is known by."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec

from kvplan import __version__
from kvplan.scenario import Scenario


@cache
def version() -> str:
    """The release, and a digest of the installed files: results are of one program."""
    package = Path(__file__).resolve().parents[1]
    digest = sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".toml", ".jsonl", ".json")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def key_of(one: Scenario, trace_digest: str) -> str:
    """What a run is known by: the program's version, the resolved scenario with its seed, the trace's content, and a policy's own file."""
    plain = one.changed(name="", trace=trace_digest, defaults=None, notes=())
    policy = Path(one.engine.offload.policy.rpartition(":")[0]).expanduser()
    code = policy.read_bytes() if ":" in one.engine.offload.policy and policy.is_file() else b""
    return sha256(b"\0".join((version().encode(), msgspec.json.encode(plain), code))).hexdigest()
