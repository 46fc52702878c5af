"""What a copy over the host link takes, by hand."""

from __future__ import annotations

import pytest

from kvplan.hardware.spec import Link
from kvplan.sim.transfer.links import IN, OUT, HostLink
from tests.sim.worlds import world

LINK = HostLink(Link(h2d_Bps=50e9, d2h_Bps=25e9, launch_s=10e-6, copy_s=1e-6, small_copy_bytes=20_000, small_copy_s=2e-6))


@pytest.mark.parametrize(
    ("direction", "size", "pieces", "seconds"),
    [
        (IN, 2_000_000, 1, 10e-6 + 1e-6 + 40e-6),  # one piece of 2 MB
        (OUT, 2_000_000, 1, 10e-6 + 1e-6 + 80e-6),
        (IN, 2_000_000, 100, 10e-6 + 100e-6 + 40e-6),  # 100 of 20 kB: not below the cliff
        (IN, 1_999_900, 100, 10e-6 + 200e-6),  # 100 of 19,999 B: 2 us each
        (OUT, 1_999_900, 10, 10e-6 + 10e-6 + 79.996e-6),  # 10 of 199,990 B
        (OUT, 10_000_000, 501, 10e-6 + 501 * 2e-6),  # 501 of 19,960 B: 2 us each hide 0.8 us on the wire
        (IN, 0, 1, 0.0),
    ],
)
def test_a_transfer_is_its_launch_its_pieces_and_its_bytes(direction: int, size: int, pieces: int, seconds: float) -> None:
    assert LINK.service_s(direction, size, pieces) == pytest.approx(seconds, rel=1e-9)


def test_a_small_copy_is_never_faster_than_the_wire() -> None:
    quick = HostLink(Link(h2d_Bps=1e9, d2h_Bps=1e9, launch_s=0.0, copy_s=1e-6, small_copy_bytes=20_000, small_copy_s=1e-9))
    assert quick.service_s(IN, 10_000, 1) == pytest.approx(10e-6)


@pytest.mark.parametrize(
    ("layers", "link", "expected_s"),
    [
        # Llama-3.1-8B: a block of 16 tokens is 2 MiB over 32 layers, 64 KiB a layer. Ten blocks at 50 GB/s: 419.4304 us.
        ("all", {}, 10e-6 + 10 * 1e-6 + 419.4304e-6),  # ten pieces
        ("one", {}, 10e-6 + 320 * 1e-6 + 419.4304e-6),  # 320 pieces
        ("one", {"small_copy_bytes": 65_537}, 10e-6 + 320 * 2e-6),  # below the cliff: 2 us each, more than 1.31 us on the wire
        ("all", {"small_copy_bytes": 65_537}, 10e-6 + 10 * 1e-6 + 419.4304e-6),
    ],
)
def test_a_layout_by_layer_copies_every_block_in_as_many_pieces_as_layers(layers: str, link: dict[str, float], expected_s: float) -> None:
    fields = {"h2d_Bps": 50e9, "launch_s": 10e-6, "copy_s": 1e-6, "small_copy_bytes": 20_000, "small_copy_s": 2e-6} | link
    built = world([], cpu_blocks=64, offload={"copy_layers": layers}, machine={"link": fields})
    host = built.servers[0].below[0].path
    assert host.service_s(IN, 160) == pytest.approx(expected_s, rel=1e-9)
