"""What calibration predicts is what size, plan and simulate evaluate: the same functions, on a shape and on the catalog's model alike."""

import msgspec
import pytest

from kvplan import catalog
from kvplan.calibrate.measure.fake import TRUTH
from kvplan.calibrate.predict import PREDICT, with_values
from kvplan.calibrate.records import point
from kvplan.calibrate.shapes import SHAPES
from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec
from kvplan.hardware.timing import IN, OUT, copies_s, disk_s, transfer_s
from kvplan.step_time import StepCost

BARE = EngineSpec(name="none", version="0")
MACHINES = {"fake": TRUTH, "h100-sxm": catalog.machine("h100-sxm"), "h200-sxm": catalog.machine("h200-sxm")}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b"])
def test_steps_of_a_shape_are_those_of_the_model(name: str, machine: str) -> None:
    bursts = with_values(MACHINES[machine], {"gpu.sustained_fraction": 1.0})  # probes last too short for clocks to fall
    cost = StepCost(Deployment(model=catalog.model(name), engine=BARE, server=bursts))
    for new, context in ((512, 0), (8192, 32768)):
        predicted = PREDICT["prefill_step"](MACHINES[machine], point("prefill_step", model=name, new=new, context=context))
        assert predicted == pytest.approx(cost.busy_s([(new, context)], 0, 0.0, 1), rel=1e-9)
    for batch, context in ((1, 1024), (32, 4096)):
        predicted = PREDICT["decode_step"](MACHINES[machine], point("decode_step", model=name, batch=batch, context=context))
        assert predicted == pytest.approx(cost.busy_s([], batch, cost.decode_attention_s([context] * batch), batch), rel=1e-9)


def test_every_shape_is_a_model_of_the_catalog() -> None:
    assert set(SHAPES) - {"qwen2.5-7b"} <= set(catalog.names("models"))


@pytest.mark.parametrize("machine", MACHINES)
def test_copies_and_disks_are_those_of_transfers(machine: str) -> None:
    one = MACHINES[machine]
    for way, direction in (("h2d", IN), ("d2h", OUT)):
        piece = PREDICT["copy"](one, point("copy", direction=way, memory="pinned", bytes=2**20))
        assert piece == copies_s(one.link, direction, 2**20, 1)
        assert transfer_s(one.link, direction, 2**26, 64) == pytest.approx(one.link.launch_s + 64 * piece)
    for op, direction in (("disk_read", IN), ("disk_write", OUT)):
        each = PREDICT[op](one, point(op, bytes=2**20, threads=16))
        assert disk_s(one.disk, direction, 2**24, 16, 16) == pytest.approx(16 * each)


def test_the_fit_finds_what_the_functions_were_fed() -> None:
    """Without noise the fitted numbers are the machine's, since both evaluate one function."""
    from kvplan.calibrate.fits import fit_all
    from kvplan.calibrate.measure.fake import FakeInstrument
    from kvplan.calibrate.probes import MODES, Context, probes
    from kvplan.calibrate.records import Estimate, Point
    from kvplan.calibrate.shapes import shape

    def exact(one: Point) -> Estimate:
        sample = FakeInstrument().measure(one, 1)[0]
        level = {"seconds": sample.seconds, "lo": sample.seconds, "hi": sample.seconds}
        return Estimate(point=one, **level, blocks=1, samples=1, converged=True, block_medians=(sample.seconds,), notes=sample.notes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvplan.calibrate.measure.fake.NOISE", 0.0)
        patch.setattr("kvplan.calibrate.measure.fake.HICCUP", 0.0)
        patch.setattr("kvplan.fit.least_squares.DRAWS", 2)
        context = Context(mode=MODES["quick"], model=shape("llama-3.1-8b"))
        rows = [exact(one) for probe in probes() for one in probe.points(context)]
        found = fit_all(rows, msgspec.structs.replace(TRUTH.gpu, gemm_efficiency=0.5, attention_efficiency=0.3))
    assert found.missed == {}
    for path in (
        "gpu.gemm_efficiency",
        "gpu.attention_efficiency",
        "link.h2d_Bps",
        "link.duplex_fraction",
        "disk.read_Bps",
        "disk.duplex_fraction",
    ):
        part, _, name = path.partition(".")
        assert found.values[path].value == pytest.approx(getattr(getattr(TRUTH, part), name), rel=0.01), path
