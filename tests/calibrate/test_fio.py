"""Direct reads beside fio's, on one file and alternating: prints the ratios, never fails on them."""

import json
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from kvplan.calibrate.measure import disk as module
from kvplan.calibrate.measure import storage
from kvplan.calibrate.measure.disk import DiskInstrument
from kvplan.calibrate.records import point
from kvplan.units import GiB, KiB, MiB


def _fio(path: Path, size: int, block: int, threads: int) -> float:
    options = {
        "name": "side",
        "filename": path,
        "size": size,
        "direct": 1,
        "ioengine": "psync",
        "rw": "randread",
        "randrepeat": 0,
        "bs": block,
        "numjobs": threads,
        "ramp_time": "100ms",
        "runtime": "1s",
        "output-format": "json",
    }
    flags = ["--thread", "--norandommap", "--group_reporting", "--time_based", "--readonly"]
    command = ["fio", *flags, *(f"--{name}={value}" for name, value in options.items())]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(text[text.index("{") :])["jobs"][0]["read"]["bw_bytes"])


@pytest.mark.benchmark
@pytest.mark.slow
def test_reads_beside_fio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    refused = storage.check_filesystem(tmp_path)
    if refused:
        pytest.skip(refused.text)
    monkeypatch.setattr(module, "WINDOW_S", 1.0)
    instrument = DiskInstrument(tmp_path, 4 * GiB, seed=1)
    try:
        file = instrument.ready()
        for block in (256 * KiB, MiB, 4 * MiB):
            ratios = []
            for turn in range(3):
                instrument.fresh(turn)
                ours = instrument.measure(point("disk_read", bytes=block, threads=4, pages="small"), 1)
                ratios.append(ours[0].notes["Bps"] / _fio(file.path, file.size, block, 4))
            with capsys.disabled():
                print(f"\n{block >> 10} KiB x 4 readers, 4 KiB pages: {statistics.median(ratios):.2f} of fio")
    finally:
        instrument.close()
