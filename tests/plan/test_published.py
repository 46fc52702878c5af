"""Published losses are predicted as losses, published wins as wins."""

from __future__ import annotations

import pytest

from tests.plan.published import EXPLAINED, FILE, sign, table

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the collected published figures are not beside this checkout")


def test_the_sign_of_nine_published_effects_in_ten_is_predicted() -> None:
    rows = table()
    wrong = [name for name, published, predicted in rows if sign(published) != sign(predicted)]
    assert len(rows) >= 30
    assert len(wrong) <= 0.1 * len(rows), wrong
    assert set(wrong) <= set(EXPLAINED), "a miss has no explanation"
