"""Physical bounds, links, busy GPUs, clocks; and the profile's text."""

import tomllib

import pytest

from kvplan import catalog
from kvplan.calibrate import checks
from kvplan.calibrate.datasheet import link_Bps, peaks
from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.profile import to_toml
from kvplan.calibrate.records import Estimate, Point, point

H100 = catalog.machine("h100-sxm").gpu
FACTS = {"gpu_name": "NVIDIA H100 80GB HBM3", "link_gen_max": 5, "link_width_max": 16}


def _row(one: Point, seconds: float) -> Estimate:
    return Estimate(point=one, seconds=seconds, lo=seconds, hi=seconds, blocks=6, samples=6, converged=True)


@pytest.mark.parametrize(
    ("one", "bound_s"),
    [
        # PCIe 5 x16 carries 63.0e9 B/s each way: 1 GiB in 17.04 ms.
        (point("copy", direction="h2d", bytes=2**30), 2**30 / 63.008e9),
        # 2 x 4096^3 FLOPs at 989 TFLOP/s: 138.97 us.
        (point("gemm", m=4096, n=4096, k=4096), 138.97e-6),
        # One token: 2 x 4096 x 4096 B of weights at 3.35 TB/s: 10.02 us.
        (point("gemm", m=1, n=4096, k=4096), 10.016e-6),
        # 3.35 GB at 3.35 TB/s.
        (point("hbm", bytes=3.35e9), 1e-3),
    ],
)
def test_a_figure_above_a_bound_is_discarded_and_said(one: Point, bound_s: float) -> None:
    assert checks.bound_s(one, FACTS, H100) == pytest.approx(bound_s, rel=1e-3)
    slow, fast = _row(one, bound_s * 1.01), _row(one, bound_s / 1.05)
    kept, findings = checks.possible([slow, fast], FACTS, H100)
    assert kept == [slow]
    assert [f.code for f in findings] == ["G07"]
    assert "discarded" in findings[0].text


def test_an_unknown_gpu_has_no_bound_and_the_peaks_that_were_measured() -> None:
    product = point("gemm", m=1024, n=1024, k=1024)
    assert checks.bound_s(product, {"gpu_name": "Some GPU"}, None) == 0.0
    # 2 x 1024^3 FLOPs in 10 us: 214.7 TFLOP/s.
    gpu, sources = peaks(None, {"gpu_name": "Some GPU", "memory_bytes": 2**34}, [_row(product, 1e-5)])
    assert (gpu.name, gpu.bf16_flops) == ("Some GPU", pytest.approx(214.7e12, rel=1e-3))
    assert "the best that was measured" in sources["bf16_flops"]


def test_a_known_gpu_has_its_makers_peaks() -> None:
    gpu, sources = peaks(H100, FACTS, [])
    assert (gpu.hbm_Bps, gpu.bf16_flops, gpu.fp8_flops) == (H100.hbm_Bps, H100.bf16_flops, H100.fp8_flops)
    assert sources["hbm_Bps"] == "datasheet of NVIDIA H100 80GB HBM3, dense"


def test_a_slow_slot_is_said() -> None:
    assert checks.check_link(FACTS, {"link_gen": 5, "link_width": 16}) == []
    found = checks.check_link(FACTS, {"link_gen": 4, "link_width": 8})
    assert [f.code for f in found] == ["G01"]
    assert "Gen4 x8" in found[0].text
    assert link_Bps(4, 16) == pytest.approx(31.5e9, rel=1e-3)


def test_a_busy_gpu_is_refused() -> None:
    assert checks.check_busy({"utilization_percent": 5}, []) is None
    for facts, others in (({"utilization_percent": 6}, []), ({"utilization_percent": 0}, ["vllm"])):
        finding = checks.check_busy(facts, others)
        assert finding is not None
        assert (finding.code, finding.level) == ("G04", "refuse")


def test_throttling_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = inventory.Monitor.__new__(inventory.Monitor)
    readings = [(1980.0, 0x0, 90.0)] * 5 + [(1500.0, 0x4, 95.0)] * 5 + [(345.0, 0x1, 0.0)] * 5
    monkeypatch.setattr(monitor, "readings", lambda: readings, raising=False)
    found = monitor.findings()
    assert [f.code for f in found] == ["G02"]
    assert "24%" in found[0].text  # 1 - 1500/1980; the idle clock does not count
    assert "power cap" in found[0].text


def test_toml_reads_back() -> None:
    document = {
        "name": 'a "quoted" name\n',
        "flag": True,
        "count": 3,
        "rate": 3.35e12,
        "tiny": 2.5e-06,
        "rows": [[1, "x", 0.5], [2, "y", 1.0]],
        "empty": {},
        "table": {"with.dot": 1, "inner": {"é": [1, 2]}},
        "provenance": {"gpu.hbm_Bps": {"kind": "measured", "lo": 1.0}},
    }
    assert tomllib.loads(to_toml(document)) == document
    assert tomllib.loads(to_toml({"gone": None, "kept": 1})) == {"kept": 1}
