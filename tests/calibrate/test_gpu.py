"""The real instrument, on a machine that has a GPU."""

import pytest

from kvplan.calibrate.records import point
from kvplan.units import MiB

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]

POINTS = [
    point("launch", span_s=0.1),
    point("copy", direction="h2d", memory="pinned", bytes=64 * MiB),
    point("copy", direction="d2h", memory="alone", bytes=MiB),
    point("mapped", direction="h2d", bytes=64 * MiB),
    point("mapped", direction="d2h", bytes=64 * MiB),
    point("scatter", direction="h2d", path="loop", bytes=65536, pieces=16),
    point("scatter", direction="h2d", path="batch", bytes=65536, pieces=16),
    point("duplex", direction="h2d", bytes=64 * MiB),
    point("gemm", model="llama-3.1-8b", what="o", m=64, n=4096, k=4096),
    point("attention_prefill", path="flash", new=512, context=512, heads=32, kv_heads=8, dim=128),
    point("attention_decode", path="flash", batch=4, context=1024, heads=32, kv_heads=8, dim=128),
    point("elementwise", what="residual", m=16, model="llama-3.1-8b"),
    point("decode_step", model="llama-3.2-1b", batch=2, context=128),
    point("sustained", model="llama-3.2-1b", new=2048, context=0, span_s=1.0),
]


@pytest.mark.parametrize("one", POINTS, ids=lambda p: p.key)
def test_points_are_measured_and_their_results_checked(one) -> None:  # type: ignore[no-untyped-def]
    from kvplan.calibrate.checks import possible
    from kvplan.calibrate.measure.instrument import TorchInstrument
    from kvplan.calibrate.sample import estimate

    instrument = TorchInstrument()
    try:
        instrument.fresh(1)
        samples = instrument.measure(one, 2)
        rows, findings = possible([estimate(one, [samples], 0.05)], instrument.facts(), None)
    finally:
        instrument.close()
    assert len(rows) == 1, findings
    assert 0 < rows[0].seconds < 1
