"""What has been understood of a configuration so far: settings, tiers and faults; the engines' readers fill it."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from kvplan.catalog import read_text
from kvplan.deploy.dialect import Dialect
from kvplan.deploy.syntax import Config
from kvplan.engine.spec import HostPool
from kvplan.engine.versions import order
from kvplan.errors import did_you_mean
from kvplan.results.deploy import Meaning, TierSize
from kvplan.results.placement import Level, Notice
from kvplan.units import MiB, TiB, format_bytes

SMALLEST_TIER, LARGEST_TIER = 64 * MiB, 16 * TiB
"""Per rank; a number outside is more likely to have been meant in another unit."""

MOST = 2.0**60
"""No number of a configuration lies above, bytes included."""

MOST_RANKS = 1024

_SHOWN = 40  # characters of a value that is refused


@functools.cache
def known_settings() -> dict[str, dict[str, Any]]:
    """Engine -> group of settings -> the names that the engine knows; `changes` lists what later versions add."""
    return msgspec.toml.decode(read_text(Path(__file__).with_name("settings.toml")))


@functools.cache
def settings_of(engine: str, group: str, version: str) -> tuple[str, ...]:
    """Names of a group of an engine's settings at a version."""
    written = known_settings()[engine]
    later = (one.get(group, []) for one in written.get("changes", []) if order(one["since"]) <= order(version))
    return (*written[group], *(name for names in later for name in names))


def transfer_config(config: Config) -> dict[str, Any]:
    """vLLM's connector settings, from its flag or from a document by itself; empty when there are none or no JSON."""
    if "kv_connector" in config.document:
        return config.document
    try:
        value = json.loads(config.flags.get("--kv-transfer-config", "{}"))
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


_KINDS = {"tp": "tensor-parallel rank", "pp": "pipeline stage", "dp": "data-parallel rank"}


class Reading:
    """One configuration being read: `fields` become its placement."""

    __slots__ = (
        "config",
        "dialect",
        "engine",
        "fields",
        "host_bytes",
        "host_pool",
        "meanings",
        "notices",
        "pool_bytes",
        "pool_tokens",
        "tiers",
        "tp_given",
        "version",
    )

    def __init__(self, config: Config, engine: str, dialect: Dialect, tp: int, pool_bytes: int, version: str = "") -> None:
        self.config = config
        self.version = version
        self.pool_tokens = self.host_bytes = 0
        self.host_pool = HostPool()
        self.engine = engine
        self.dialect = dialect
        self.pool_bytes = pool_bytes
        self.tp_given = tp
        self.fields: dict[str, object] = {"model": "", "tp": tp or 1, "store_generated": True}
        self.meanings: list[Meaning] = []
        self.notices: list[Notice] = []
        self.tiers: list[TierSize] = []

    @property
    def tp(self) -> int:
        return self._size("tp")

    @property
    def dp(self) -> int:
        return self._size("dp")

    @property
    def pool_ranks(self) -> int:
        """Ranks that share one pool and one set of tiers."""
        return self.tp * self._size("pp")

    def _size(self, kind: str) -> int:
        return int(self.fields.get(kind, 1))  # type: ignore[call-overload]

    def mean(self, key: str, value: object, sentence: str) -> None:
        """A setting and what it means."""
        self.meanings.append(Meaning(key=key, value=str(value), sentence=sentence))

    def fault(self, code: str, sentence: str, *, key: str = "", hint: str = "", level: Level = "error") -> None:
        """Something wrong, or worth knowing."""
        self.notices.append(Notice(code=code, level=level, sentence=sentence, hint=hint, key=key))

    def unknown(self, keys: Collection[str], group: str, *, level: Level = "error") -> None:
        """A fault for each key that is not in a group of the engine's settings."""
        known = settings_of(self.engine, group, self.version)
        for key in keys:
            if key not in known:
                sentence = f"{key} is not a setting of {self.dialect.title} {self.version}."
                self.fault("unknown_key", sentence, key=key, hint=did_you_mean(key, known), level=level)

    def mapping(self, key: str, document: dict[str, Any]) -> dict[str, Any]:
        """The settings under a key; a fault, and none, when what stands there is no mapping."""
        value = document.get(key, {})
        if isinstance(value, dict):
            return value
        self.fault("not_a_mapping", f"{key} = {value!r} is not a group of settings.", key=key)
        return {}

    def number(self, key: str, value: object) -> float | None:
        """A number from what was written; a fault, and nothing, when it is none or negative."""
        try:
            number = float(str(value))
        except ValueError:
            number = -1.0
        if isinstance(value, bool) or not 0 <= number <= MOST:
            shown = value if len(str(value)) <= _SHOWN else f"{str(value)[:_SHOWN]}..."
            self.fault("not_a_number", f"{key} = {shown!r} is not a number from 0 to 2^60.", key=key)
            return None
        return number

    def whole(self, key: str, value: object) -> int | None:
        """A whole number above zero."""
        number = self.number(key, value)
        if number is None:
            return None
        if number < 1 or number != int(number):
            self.fault("not_a_number", f"{key} = {value} is not a whole number above zero.", key=key)
            return None
        return int(number)

    def ranks(self, key: str, value: object, kind: str = "tp") -> None:
        """The size of one kind of parallelism, where the configuration says it."""
        if (size := self.whole(key, value)) is None:
            return
        if size > MOST_RANKS:
            self.fault("not_a_number", f"{key} = {size}: at most {MOST_RANKS:,} are understood.", key=key)
            return
        self.fields[kind] = size
        self.mean(key, value, f"{size} {_KINDS[kind]}{'s' * (size > 1)}")
        if kind == "tp" and self.tp_given not in (0, size):
            sentence = f"{key} = {size} differs from the {self.tp_given} ranks that were given beside the file; {size} counts."
            self.fault("tp_differs", sentence, key=key, level="warning")

    def dtype(self, key: str, value: str) -> None:
        """The KV dtype in the engine's name."""
        names = self.dialect.dtypes
        known = {theirs: ours for ours, theirs in reversed(names.items())}
        self.fields["kv_dtype"] = known.get(value, value)
        self.mean(key, value, "KV in the model's own dtype" if value == "auto" else f"KV in {value}")

    def tokens(self, field: str, key: str, value: object, sentence: str) -> None:
        """A number of tokens that becomes a field of the placement."""
        if (tokens := self.whole(key, value)) is not None:
            self.fields[field] = tokens
            self.mean(key, value, sentence)

    def tier(self, name: Literal["cpu", "disk"], key: str, value: object, *, where: str = "", scale_bytes: int = 0) -> None:
        """A tier whose size is written in the engine's unit, or in another of so many bytes."""
        if (number := self.number(key, value)) is None:
            return
        target = self.dialect
        each, scale = target.unit.per_rank, scale_bytes or target.unit.scale_bytes
        total = round(number * scale * (self.pool_ranks if each else 1))
        self.tier_of(name, key, value, total, where=where)
        if total and not SMALLEST_TIER <= total / self.pool_ranks <= LARGEST_TIER:
            word = "bytes" if scale == 1 else target.unit.word
            sentence = (
                f"{key} = {value} means {format_bytes(total)} over all ranks: {target.title} counts it "
                f"in {word} {'in each rank' if each else 'over all ranks'}."
            )
            self.fault("unit_trap", sentence, key=key, hint="was it meant in another unit?")

    def tier_of(self, name: Literal["cpu", "disk"], key: str, value: object, total: int, *, where: str = "") -> None:
        """A tier of known bytes."""
        self.fields[f"{name}_bytes"] = total
        ranks, each = self.pool_ranks, f", of each of the {self.dp} data-parallel ranks" if self.dp > 1 else ""
        per_rank = total // ranks
        self.tiers.append(TierSize(name=name, bytes_per_rank=per_rank, bytes_total=total, where=where))
        sizes = format_bytes(total) if ranks == 1 else f"{format_bytes(per_rank)} per rank x {ranks} = {format_bytes(total)}"
        self.mean(key, value, f"{'CPU' if name == 'cpu' else name} tier of {sizes}{each}")
