"""Everything shipped decodes, is named as people type it, and says where its numbers come from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvplan import catalog
from kvplan.errors import InputError
from kvplan.units import GiB

MACHINES = catalog.names("machines")


def written_numbers(table: dict, prefix: str = "") -> set[str]:
    """Dotted paths of the numbers that a machine file writes."""
    paths = set()
    for key, value in table.items():
        if isinstance(value, dict):
            paths |= written_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            paths.add(prefix + key)
    return paths


@pytest.mark.parametrize("kind", ["machines", "engines", "models", "scenarios"])
def test_shipped_names_are_typed_in_lower_case(kind: str) -> None:
    names = catalog.names(kind)
    assert names
    assert [name for name in names if name != name.lower() or " " in name or "_" in name] == []


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_names_the_source_of_each_number_it_writes(name: str) -> None:
    path = catalog.resolve("machines", name)
    table = msgspec.toml.decode(path.read_text())
    sources = table.pop("provenance")
    table.pop("calibration", None)  # is itself where measured numbers come from
    assert table["name"] == path.stem == name
    names = {"interconnect.table"} if table.get("interconnect", {}).get("table") else set()  # of measured curves: a choice with a source
    assert written_numbers(table) | names == set(sources)
    for entry in sources.values():
        assert len(entry["source"]) > 5, entry


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_plausible(name: str) -> None:
    machine = catalog.machine(name)
    gpu, link, disk = machine.gpu, machine.link, machine.disk
    assert 16 * GiB < gpu.memory_bytes < 512 * GiB
    assert 50e12 < gpu.bf16_flops < 5e15
    assert gpu.fp8_flops == 0 or gpu.fp8_flops == pytest.approx(2 * gpu.bf16_flops, rel=0.05)
    for fraction in (
        gpu.gemm_efficiency,
        gpu.weight_read_efficiency,
        gpu.attention_efficiency,
        gpu.kv_read_efficiency,
        gpu.elementwise_Bps_efficiency,
        link.duplex_fraction,
        machine.host.usable_fraction,
    ):
        assert 0 < fraction <= 1
    # What offloading rests on: GPU memory is faster than the host link, and the link faster than one drive.
    assert gpu.hbm_Bps > link.h2d_Bps > disk.read_Bps > disk.write_Bps
    assert machine.host.memory_bytes < disk.capacity_bytes
    assert (machine.interconnect is None) == (name == "gh200")


@pytest.mark.parametrize("name", catalog.names("engines"))
def test_an_engine_decodes(name: str) -> None:
    engine = catalog.engine(name)
    assert engine.name == name
    assert engine.version


def test_memory_is_what_the_driver_reports_not_what_the_name_says() -> None:
    # 79.18 GiB x 2^30 = 85.02e9 bytes: more than the 80e9 of the name, less than 80 GiB.
    memory = catalog.machine("h100-sxm").gpu.memory_bytes
    assert memory / GiB == pytest.approx(79.18, abs=0.005)


def test_names_are_case_blind_and_paths_work(tmp_path: Path) -> None:
    assert catalog.machine("H100-SXM") == catalog.machine("h100-sxm")
    copy = tmp_path / "mine.toml"
    copy.write_text(catalog.resolve("machines", "l4").read_text())
    assert catalog.machine(str(copy)) == catalog.machine("l4")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("h100-sxn", "h100-sxm"),
        ("l40", "l40s"),
        ("mi300", "mi300x"),
        ("h100_smx", "h100-sxm"),
    ],
)
def test_a_near_name_is_answered_with_the_right_one(typed: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no machine named '{typed}'") as caught:
        catalog.machine(typed)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("[gpu]\nnane = 1\n", "nane is not a setting"),
        ("name = 3\n", "name: text is expected, not a whole number"),
        ("name = \n", "not valid TOML"),
        ("", "is missing"),
    ],
)
def test_a_bad_machine_file_is_refused_with_the_place(edit: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(edit)
    with pytest.raises(InputError, match=said):
        catalog.machine(str(path))


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        catalog.machine(str(tmp_path / "none.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match="not UTF-8"):
        catalog.machine(str(binary))


def test_what_a_model_leaves_out_is_told_by_every_command(tmp_path: Path) -> None:
    import kvplan

    trace = Path(__file__).parent / "measured/h100-vllm-0.24/chat28.jsonl"
    options = {"model": "minimax-m3", "machine": "h200-sxm", "tp": 8, "limit": 5}
    caveat = "what it reserves and how long steps take is approximate"
    assert any(caveat in text for text in kvplan.size("minimax-m3", context_tokens=8192).warnings)
    assert any(caveat in text for text in kvplan.simulate(trace, **options).warnings)
    assert any(caveat in text for text in kvplan.plan(trace, **options).warnings)
