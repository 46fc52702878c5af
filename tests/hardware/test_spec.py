"""Machine records refuse what no machine has, and read files of earlier versions."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import catalog, scenario
from kvplan.errors import InputError
from kvplan.hardware.spec import Disk, Gpu, Host, Interconnect, Link, Machine, Network

SHIPPED = catalog.resolve("machines", "h100-sxm").read_text()


def numbers(kind: Any, prefix: str = "") -> list[str]:
    """Dotted paths of every number of a record."""
    found = []
    for field in msgspec.structs.fields(kind):
        if getattr(field.type, "__origin__", None) is tuple:  # curves: no setting reaches into them
            continue
        inner = [t for t in getattr(field.type, "__args__", ()) if hasattr(t, "__struct_fields__")]
        inner += [field.type] if hasattr(field.type, "__struct_fields__") else []
        if inner:
            found += numbers(inner[0], f"{prefix}{field.name}.")
        elif getattr(field.type, "__origin__", None) in (int, float):
            found.append(prefix + field.name)
    return found


def written(path: str, value: str) -> str:
    """The shipped machine with one number changed."""
    part, _, name = path.rpartition(".")
    lines = [line for line in SHIPPED.splitlines() if not (part == "" and line.startswith(f"{name} ="))]
    if not part:
        return f"{name} = {value}\n" + "\n".join(lines)
    start = lines.index(f"[{part}]")
    end = next(i for i in range(start + 1, len(lines)) if lines[i].startswith("["))
    body = [line for line in lines[start + 1 : end] if not line.startswith(f"{name} =")]
    return "\n".join([*lines[: start + 1], f"{name} = {value}", *body, "", *lines[end:]])


NUMBERS = numbers(Machine)
BASE = scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm")


def test_every_number_has_bounds() -> None:
    assert len(NUMBERS) >= 44
    records = [Machine, Gpu, Link, Host, Disk, Network, Interconnect]
    plain = [f"{kind.__name__}.{field.name}" for kind in records for field in msgspec.structs.fields(kind) if field.type in (int, float)]
    assert plain == []


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e308"])
@pytest.mark.parametrize("path", NUMBERS)
def test_nonsense_is_refused_with_the_path_of_the_field(path: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(written(path, value))
    with pytest.raises(InputError, match=path.replace(".", "\\.")):
        catalog.machine(str(file))


def test_a_curve_is_refused_where_it_is_nonsense(tmp_path: Path) -> None:
    good = '{ op = "send", gpus = 2, size_bytes = [1.0], seconds = [1e-5] }'
    file = tmp_path / "m.toml"
    file.write_text(written("interconnect.curves", f"[{good}]"))
    assert catalog.machine(str(file)).interconnect.curves[0].gpus == 2  # type: ignore[union-attr]
    for bad in ("gpus = -1", "gpus = 1e308", "gpus = 1"):
        file.write_text(written("interconnect.curves", f"[{good.replace('gpus = 2', bad)}]"))
        with pytest.raises(InputError, match=r"interconnect.curves\[0\].gpus"):
            catalog.machine(str(file))


def test_a_file_of_an_earlier_calibration_is_read_and_says_what_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    text = written("link.compute_slowdown", "0.0048")
    file.write_text(text.replace("[provenance]", '[provenance]\n"link.compute_slowdown" = {kind = "measured", source = "x"}'))
    machine = catalog.machine(str(file))
    assert machine.link == catalog.machine("h100-sxm").link
    assert "link.compute_slowdown" not in machine.provenance
    assert machine.notes == ("h100-sxm: link.compute_slowdown in its file is no longer used, and was ignored",)


@pytest.mark.parametrize("path", NUMBERS)
def test_a_setting_has_the_bounds_of_its_field(path: str) -> None:
    for value in ("-1", "nan", "1e308"):
        with pytest.raises(InputError, match=f"machine.{path}"):
            scenario.with_setting(BASE, f"machine.{path}", value)
