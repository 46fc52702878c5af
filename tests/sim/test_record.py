"""Columns and the histogram of the time between tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.request import Request
from kvplan.sim.outcome.record import Histogram, Recorder


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(2e-6, 1e4), st.integers(1, 50)), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_percentile_lies_within_half_a_percent(intervals: list[tuple[float, int]], q: float) -> None:
    histogram, tokens = Histogram(), []
    for seconds, count in intervals:
        histogram.add(seconds, count)
        tokens += [seconds] * count
    exact = np.quantile(tokens, q, method="inverted_cdf")
    # A share of q = k/n in floating point may fall on either side of the k-th value: accept its neighbours' range.
    below, above = (np.quantile(tokens, min(1.0, max(0.0, q + step)), method="inverted_cdf") for step in (-1e-9, 1e-9))
    assert below / 1.006 <= histogram.quantile(q) <= above * 1.006, exact
    assert histogram.total / histogram.count == pytest.approx(np.mean(tokens))
    assert histogram.largest == max(tokens)


def test_a_row_cut_short_by_an_interrupt_is_dropped() -> None:
    recorder = Recorder()
    request = Request(index=0, arrival_s=0.0, prompt_tokens=5, output_tokens=1)
    recorder.rejected(request)
    recorder.integers[0].append(7)  # as far as the interrupted one came
    recorder.trim()
    recorder.rejected(Request(index=1, arrival_s=1.0, prompt_tokens=6, output_tokens=1))
    assert {name: len(column) for name, column in recorder.columns.items()} == dict.fromkeys(recorder.columns, 2)
    assert list(recorder.columns["index"]) == [0, 1] and list(recorder.columns["prompt_tokens"]) == [5, 6]
