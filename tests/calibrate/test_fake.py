"""The whole pipeline on the fake server: deterministic, recovers its truth, survives failures, resumes."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvplan import catalog
from kvplan.calibrate import run as runner
from kvplan.calibrate.compare import compare, number
from kvplan.calibrate.measure.fake import TRUTH, FakeInstrument
from kvplan.calibrate.measure.server import CalibrateOptions, calibrate
from kvplan.calibrate.profile import journal_path, samples_path
from kvplan.calibrate.records import ContentError, Point, Sample
from kvplan.errors import InputError, MissingError
from kvplan.hardware.collectives import collective_s
from kvplan.results.calibrate import CalibrateResult


def fake(**options: object) -> CalibrateResult:
    return calibrate(CalibrateOptions(device="fake", **options), lambda _: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CalibrateResult]:
    path = tmp_path_factory.mktemp("fake") / "my.toml"
    return path, fake(output=path)


RECOVERED = {
    "gpu.gemm_efficiency": 0.02,
    "gpu.weight_read_efficiency": 0.02,
    "gpu.gemm_overhead_s": 0.05,
    "gpu.attention_efficiency": 0.02,
    "gpu.kv_read_efficiency": 0.03,
    "gpu.attention_overhead_s": 0.03,
    "link.h2d_Bps": 0.01,
    "link.d2h_Bps": 0.01,
    "link.copy_s": 0.15,
    "link.launch_s": 0.05,
    "link.duplex_fraction": 0.02,
    "host.pin_s_per_byte": 0.05,
    "disk.read_Bps": 0.02,
    "disk.write_Bps": 0.03,
    "disk.latency_s": 0.05,
    "disk.duplex_fraction": 0.05,
    "gpu.sustained_fraction": 0.03,
    "host.python_s": 0.03,
    "host.launch_s": 0.03,
    "link.mapped_read_Bps": 0.03,
    "link.mapped_write_Bps": 0.03,
    "link.small_copy_s": 0.03,
}


@pytest.mark.parametrize("path", RECOVERED)
def test_truth_is_recovered(standard: tuple[Path, CalibrateResult], path: str) -> None:
    assert number(standard[1].machine, path) == pytest.approx(number(TRUTH, path), rel=RECOVERED[path])


def test_collectives_of_four_gpus_become_curves(standard: tuple[Path, CalibrateResult]) -> None:
    """The truth is a ring of 150 GB/s and 10 us: 3/4 of 1 MiB gathered over four GPUs take 15.2 us, also from the file."""
    machine = catalog.machine(str(standard[0]))
    assert machine.interconnect
    assert machine.interconnect.table == ""
    assert {(curve.op, curve.gpus) for curve in machine.interconnect.curves} == {
        *((op, gpus) for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all") for gpus in (2, 4)),
        ("send", 2),
    }
    for op, gpus, size in (("all_gather", 4, 2**21), ("all_reduce", 2, 2**23), ("send", 2, 2**25), ("all_reduce", 3, 2**27)):
        said = collective_s(machine.interconnect, op, gpus, size)  # type: ignore[arg-type]
        assert said == pytest.approx(collective_s(TRUTH.interconnect, op, gpus, size), rel=0.03), (op, gpus, size)  # type: ignore[arg-type]
    assert machine.source("interconnect.curves").kind == "fake"


def test_one_gpu_has_no_collectives(tmp_path: Path) -> None:
    job = _job(tmp_path / "m.toml")
    result = runner.run(job, {"gpu": FakeInstrument(gpus=1)}, progress=lambda _: None, clock=lambda: 0.0)
    assert {probe.name: probe.status for probe in result.probes}["collectives"] == "waived"
    assert result.machine.interconnect is None


def test_the_profile_is_a_machine_and_says_that_it_is_fake(standard: tuple[Path, CalibrateResult]) -> None:
    machine = catalog.machine(str(standard[0]))
    assert "fake" in machine.title
    assert machine.source("link.h2d_Bps").kind == "fake"
    assert machine.source("link.h2d_Bps").lo < machine.link.h2d_Bps < machine.source("link.h2d_Bps").hi  # type: ignore[operator]
    assert machine.calibration["mode"] == "standard"
    assert machine.calibration["domain"]["gemm_m"] == [1, 8192]  # type: ignore[index]


def test_nothing_fails(standard: tuple[Path, CalibrateResult]) -> None:
    status = {probe.name: probe.status for probe in standard[1].probes}
    assert set(status.values()) == {"done"}


def test_no_table_has_two_columns_of_one_name(standard: tuple[Path, CalibrateResult]) -> None:
    for name, table in standard[1].machine.calibration["tables"].items():  # type: ignore[attr-defined]
        assert len(set(table["columns"])) == len(table["columns"]), name


def test_held_out_points_are_predicted(standard: tuple[Path, CalibrateResult]) -> None:
    quality = standard[1].quality
    assert quality.accepted
    assert quality.points == 24
    assert set(quality.errors) == {"copies", "matrix products", "prefill", "decode", "disk reads"}
    assert max(quality.errors.values()) < 0.05


def test_the_same_seed_gives_the_same_bytes(standard: tuple[Path, CalibrateResult], tmp_path: Path) -> None:
    again = tmp_path / "my.toml"
    fake(output=again)
    assert again.read_bytes() == standard[0].read_bytes()
    assert samples_path(again).read_bytes() == samples_path(standard[0]).read_bytes()


def test_the_profile_names_its_samples(standard: tuple[Path, CalibrateResult]) -> None:
    import gzip
    import hashlib

    path, _ = standard
    content = samples_path(path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == catalog.machine(str(path)).calibration["samples_sha256"]
    first = msgspec.json.decode(gzip.decompress(content).splitlines()[0])
    assert {"point", "block", "seconds"} <= first.keys()
    assert not journal_path(path).exists()


@pytest.mark.parametrize("mode", ["standard", "quick"])
def test_two_runs_agree_within_their_intervals(standard: tuple[Path, CalibrateResult], mode: str) -> None:
    """The noise of the fake is drawn afresh, and quick mode measures fewer points: no number is apart."""
    result = compare(standard[1].machine, fake(mode=mode, seed=7).machine)
    assert len(result.differences) >= 20
    assert [row.path for row in result.differences if not row.agree] == []


def test_a_part_alone_says_what_stands_in() -> None:
    result = fake(only="disk", base=catalog.machine("h100-sxm"), stand_in=True)
    assert result.machine.source("disk.read_Bps").kind == "fake"
    assert result.machine.source("link.h2d_Bps").kind == "assumed"
    assert any(remark.code == "B01" for remark in result.warnings)


def test_a_part_alone_without_a_base_is_refused() -> None:
    with pytest.raises(InputError, match="gpu, link"):
        calibrate_disk_only()


def calibrate_disk_only() -> None:
    class NoGpu(FakeInstrument):
        def facts(self):  # type: ignore[no-untyped-def]
            return {k: v for k, v in super().facts().items() if not k.startswith("gpu")}

    from kvplan.calibrate.probes import MODES, Context, probes
    from kvplan.calibrate.shapes import shape

    context = Context(mode=MODES["quick"], model=shape("llama-3.1-8b"))
    job = runner.Assignment(context=context, probes=tuple(probes("disk")), fake=True)
    runner.run(job, {"gpu": NoGpu()}, progress=lambda _: None, clock=lambda: 0.0)


class Stumbling(FakeInstrument):
    """Fails at one operation, or dies at it."""

    def __init__(self, op: str, *, dies: bool) -> None:
        super().__init__()
        self.op, self.dies = op, dies
        self.measured: list[str] = []

    def measure(self, point: Point, samples: int) -> list[Sample]:
        self.measured.append(point.op)
        if point.op == self.op:
            raise KeyboardInterrupt if self.dies else RuntimeError("illegal memory access")
        return super().measure(point, samples)


def _job(path: Path, only: str = "", **more: object) -> runner.Assignment:
    from kvplan.calibrate.probes import MODES, Context, probes
    from kvplan.calibrate.shapes import shape

    context = Context(mode=MODES["quick"], model=shape("llama-3.1-8b"))
    return runner.Assignment(context=context, probes=tuple(probes(only)), base=TRUTH if only else None, output=path, fake=True, **more)  # type: ignore[arg-type]


def test_a_failing_probe_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    instrument = Stumbling("duplex", dies=False)
    result = runner.run(_job(tmp_path / "m.toml"), {"gpu": instrument}, progress=lambda _: None, clock=lambda: 0.0)
    outcome = {probe.name: probe for probe in result.probes}
    assert outcome["duplex"].status == "failed"
    assert "illegal memory access" in outcome["duplex"].reason
    assert outcome["disk_read"].status == "done"
    assert "both directions" in result.machine.calibration["fits"]["missed"]  # type: ignore[index,operator]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    with pytest.raises(KeyboardInterrupt):
        runner.run(_job(path), {"gpu": Stumbling("disk_read", dies=True)}, progress=lambda _: None, clock=lambda: 0.0)
    assert not path.exists()
    second = Stumbling("", dies=False)
    result = runner.run(_job(path, resume=True), {"gpu": second}, progress=lambda _: None, clock=lambda: 0.0)
    resumed = {probe.name for probe in result.probes if probe.reason == "resumed"}
    assert {"copies", "gemm", "decode_step"} <= resumed
    assert "duplex" not in second.measured
    assert path.exists()


def test_a_resumed_run_is_the_whole_run(tmp_path: Path) -> None:
    """The profile of an interrupted and resumed run is that of a run in one go, its warnings included."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, cut = tmp_path / "whole" / "m.toml", tmp_path / "cut" / "m.toml"
    runner.run(_job(whole), {"gpu": FakeInstrument()}, progress=lambda _: None, clock=lambda: 0.0)
    with pytest.raises(KeyboardInterrupt):
        runner.run(_job(cut), {"gpu": Stumbling("disk_again", dies=True)}, progress=lambda _: None, clock=lambda: 0.0)
    runner.run(_job(cut, resume=True), {"gpu": FakeInstrument()}, progress=lambda _: None, clock=lambda: 0.0)
    first, second = (tomllib.loads(path.read_text()) for path in (whole, cut))
    assert first["calibration"]["warnings"] != []
    for document in (first, second):
        del document["calibration"]["probes"]  # says which were resumed
    assert second == first


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda text: text[:-40], {"disk_read"}),  # what a kill or a full disk leaves: the last line is cut
        (lambda text: text + b'{"probe": 3\n', set()),
        (lambda text: text + b"\xff\xfe\n", set()),
        (lambda text: text + b"[" * 100_000 + b"\n", set()),
        (lambda text: text.replace(b'"rows":[', b'"rows":[7,', 1), {"disk_write"}),
        (lambda _: b'{"probe": 3\n', {"disk_write", "disk_read"}),
        (lambda _: b"\xff\xfe", {"disk_write", "disk_read"}),
        (lambda text: b"\n".join(text.split(b"\n")[1:]), {"disk_write", "disk_read"}),
        (lambda _: b"", {"disk_write", "disk_read"}),
    ],
)
def test_a_damaged_journal_costs_what_it_lost(tmp_path: Path, damage: Callable[[bytes], bytes], again: set[str]) -> None:
    path, said = tmp_path / "m.toml", []
    with pytest.raises(KeyboardInterrupt):
        runner.run(_job(path, only="disk"), {"gpu": Stumbling("disk_again", dies=True)}, progress=lambda _: None, clock=lambda: 0.0)
    whole = journal_path(path).read_bytes()
    journal_path(path).write_bytes(damage(whole))
    result = runner.run(_job(path, only="disk", resume=True), {"gpu": FakeInstrument()}, progress=said.append, clock=lambda: 0.0)
    measured = {probe.name for probe in result.probes if probe.reason != "resumed"}
    assert measured & {"disk_write", "disk_read"} == again
    assert any("measured again" in line for line in said) is (damage(whole) != b"")
    assert path.exists()


def test_resuming_in_another_mode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    with pytest.raises(KeyboardInterrupt):
        runner.run(_job(path), {"gpu": Stumbling("hbm", dies=True)}, progress=lambda _: None, clock=lambda: 0.0)
    with pytest.raises(InputError, match="another one .mode quick"):
        fake(output=path, resume=True)


def test_resuming_on_another_server_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    with pytest.raises(KeyboardInterrupt):
        runner.run(_job(path), {"gpu": Stumbling("hbm", dies=True)}, progress=lambda _: None, clock=lambda: 0.0)

    class Other(FakeInstrument):
        def facts(self):  # type: ignore[no-untyped-def]
            return {**super().facts(), "uuid": "another"}

    with pytest.raises(InputError, match="another one .uuid fake"):
        runner.run(_job(path, resume=True), {"gpu": Other()}, progress=lambda _: None, clock=lambda: 0.0)


def test_wrong_content_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = FakeInstrument.measure

    def corrupt(self: FakeInstrument, point: Point, samples: int) -> list[Sample]:
        if point.op == "scatter":
            raise ContentError("G06: piece 3 did not arrive")
        return honest(self, point, samples)

    monkeypatch.setattr(FakeInstrument, "measure", corrupt)
    with pytest.raises(MissingError, match="G06: piece 3 did not arrive, while measuring scatter .*no figure of this server"):
        fake(output=tmp_path / "my.toml")
    assert not (tmp_path / "my.toml").exists()


def test_a_host_of_two_speeds_is_said_and_a_part_without_held_out_points_is_no_failure() -> None:
    class Shared(FakeInstrument):
        def measure(self, point: Point, samples: int) -> list[Sample]:
            taken = super().measure(point, samples)
            return [msgspec.structs.replace(s, notes={"fast_s": 1.3e-6, "slow_s": 2.6e-6}) for s in taken]

    from kvplan.calibrate.probes import MODES, Context, probes
    from kvplan.calibrate.shapes import shape

    context = Context(mode=MODES["quick"], model=shape("llama-3.1-8b"))
    job = runner.Assignment(context=context, probes=tuple(probes("host")[:1]), base=TRUTH, fake=True)
    result = runner.run(job, {"gpu": Shared()}, progress=lambda _: None, clock=lambda: 0.0)
    assert [remark.code for remark in result.warnings if remark.level == "warning"] == ["H01"]
    assert "1.30 µs to 2.61 µs" in next(remark.text for remark in result.warnings if remark.code == "H01")
    source = result.machine.source("host.python_s")
    assert source.lo == pytest.approx(1.3e-6, rel=0.06)
    assert source.hi == pytest.approx(2.6e-6, rel=0.06)
