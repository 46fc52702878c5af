"""A live picture from two readings of a server's metrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kvplan.live import metrics
from kvplan.live.prometheus import parse
from kvplan.live.records import Endpoint
from kvplan.live.watch import picture, watch
from kvplan.live.world import Given, blank_trace, scenario_of
from kvplan.results.live import LiveResult
from tests.live.test_command import ROOT

PAGE = (Path(__file__).parent / "vllm-0.24-metrics.txt").read_text()
SERVED = metrics.Served(engine="vllm", version="0.24.0", models=["llama-3.1-8b"], metrics="/metrics", pool_bytes=8 * 2**30)


def test_a_real_page_against_nothing_before(tmp_path: Path) -> None:
    """25 stores of 11.83 GB in 0.22337 s: 52.96 GB/s, 473 MB each; 33,184 of 123,452 prompt tokens from the GPU."""
    seen = metrics.window(parse("", 0.0), parse(PAGE, 60.0))
    scenario, _ = scenario_of(str(blank_trace(tmp_path)), Given(machine="h200-sxm"), SERVED)
    found = picture("http://x", SERVED, seen, scenario, "")
    loads, stores = found.flows
    assert found.hit_rate == {"gpu": pytest.approx(33_184 / 123_452), "cpu": 0.0}
    assert stores.Bps == pytest.approx(52.96e9, rel=1e-3)
    assert stores.mean_bytes == pytest.approx(473.2e6, rel=1e-3)
    assert stores.predicted_Bps == pytest.approx(stores.Bps or 0, rel=0.1)  # h200-sxm: 54.9 GB/s and the start-up of pieces
    assert found.settings == {"machine.link.d2h_Bps": stores.Bps}
    assert loads.count == 0 and loads.Bps is None
    assert found.seconds == 60.0
    assert found.queue_s is not None and found.ttft_s is not None and 0.01 < found.ttft_s < 1
    assert any("disk_hit_tokens" in text for text in found.missing)


def test_a_real_page_of_a_server_with_a_cpu_tier() -> None:
    """vLLM 0.24 with 32 GiB of host memory on an H200 after 177 chat requests: loads and stores go on beside each other, so that
    neither rate is the link's."""
    page = parse((Path(__file__).parent / "vllm-0.24-tier-metrics.txt").read_text(), 150.0)
    found = picture("http://x", SERVED, metrics.window(parse("", 0.0), page), None, "")
    loads, stores = found.flows
    assert found.hit_rate == {"gpu": pytest.approx(479_056 / 1_238_199), "cpu": pytest.approx(453_808 / 1_238_199)}
    assert (loads.count, stores.count) == (84, 180)
    assert loads.Bps == pytest.approx(36.8e9, rel=1e-2) and stores.Bps == pytest.approx(52.1e9, rel=1e-2)
    assert found.settings == {}


def test_two_readings_of_an_idle_server(server: str) -> None:
    found = watch(Endpoint(url=f"{server}/idle"), "", 0.05, Given())
    assert found.prompt_tokens == 0 and found.hit_rate == {}
    assert any("no request came" in text for text in found.warnings)
    assert any("name the machine" in text for text in found.warnings)


def test_the_command(server: str) -> None:
    words = [sys.executable, "-m", "kvplan", "calibrate", "--from-metrics"]
    done = subprocess.run([*words, f"{server}/idle/metrics", "--window", "50ms", "--json"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout, type=LiveResult).engine == "vllm"
    done = subprocess.run([*words, f"{server}/silent", "--window", "50ms"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "has no metrics" in done.stderr and "Traceback" not in done.stderr
