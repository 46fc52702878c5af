"""Money by hand: an hour, a month, a million tokens, and the price that changes the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvplan
from kvplan import catalog
from kvplan.economics.prices import HOURS_PER_MONTH, Prices, PriceSource, UnitPrice, Used, by_name, flips, money, price_source, used
from kvplan.errors import InputError
from kvplan.units import GiB

PRICES = Prices(currency="USD", gpu=UnitPrice(value=2.0, low=1.5, high=4.0), cpu=UnitPrice(value=0.01))


def test_an_hour_a_month_and_a_million_tokens() -> None:
    # 2 GPUs at 2 and 100 GiB at 0.01 are 5 an hour; 1,000 output tokens a second are 3.6 million an hour.
    found = money(PRICES, Used(gpus=2, cpu_bytes=100 * GiB), prompt_tokens_per_s=9000.0, output_tokens_per_s=1000.0)
    assert (found.per_hour.value, found.per_hour.low, found.per_hour.high) == (5.0, 4.0, 9.0)
    assert found.per_month.value == 5 * HOURS_PER_MONTH
    assert found.per_million_output_tokens is not None and found.per_million_tokens is not None
    assert found.per_million_output_tokens.value == pytest.approx(5 / 3.6)
    assert found.per_million_tokens.high == pytest.approx(9 / 36)
    assert found.parts_per_hour == {"gpu": 4.0, "cpu": 1.0}


def test_the_price_that_changes_the_choice() -> None:
    # 4 + 1 against 6 of GPU time alone: equal when memory costs 2 instead of 1, or GPU time half: 2 + 1 against 3.
    found = {flip.what: flip for flip in flips(by_name(PRICES), {"gpu": 4.0, "cpu": 1.0}, {"GPU only": {"gpu": 6.0}})}
    assert found["cpu"].factor == pytest.approx(2.0) and found["gpu"].factor == pytest.approx(0.5)
    assert not found["cpu"].inside and not found["gpu"].inside  # memory has no range; GPU time goes down to 0.75
    assert flips(by_name(PRICES), {"gpu": 4.0}, {"same": {"gpu": 4.0}}) == ()


def test_what_replicas_take() -> None:
    one = kvplan.scenario_of("chat", cpu="8GiB", replicas=3)
    assert used(one) == Used(gpus=3, cpu_bytes=24 * GiB)


def test_shipped_prices_have_a_date_a_source_and_a_range_around_the_value() -> None:
    source = price_source("public", None)
    assert source is not None and source.listed is not None
    for kind in (source.listed.gpu, source.listed.tiers, source.listed.network):
        for name, price in kind.items():
            assert price.date and price.source, name
            assert price.low is not None and price.high is not None and price.low <= price.value <= price.high, name
    assert set(source.listed.gpu) <= set(catalog.names("machines"))


def test_prices_lie_over_one_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('currency = "EUR"\n[gpu]\nl4 = { value = 0.5 }\n[tiers]\ncpu = { value = 0.001, low = 0.0005, high = 0.002 }\n')
    source = price_source(str(file), "gpu=1.25")
    assert source is not None
    found = source.of(catalog.machine("l4"))
    assert (found.currency, found.gpu.value, found.cpu.value) == ("EUR", 1.25, 0.001)
    assert source.of(catalog.machine("mi300x")).gpu.value == 1.25  # given for any machine
    public = price_source("public", None)
    assert public is not None and public.of(catalog.machine("g6.xlarge")).gpu == public.of(catalog.machine("l4")).gpu
    assert price_source(None, None) is None and PriceSource().of(catalog.machine("l4")) == Prices()


@pytest.mark.parametrize(
    ("text", "words"),
    [("[gpu]\nl4 = { value = -1 }\n", "-1|>= 0"), ("[tiers]\nssd = { value = 1 }\n", "ssd"), ("[gpus]\nl4 = { value = 1 }\n", "gpus")],
)
def test_a_bad_list_is_said(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        price_source(str(file), None)


def test_no_price_for_a_machine_is_said() -> None:
    source = price_source("public", None)
    with pytest.raises(InputError, match="no price for a GPU of mi300x"):
        source.of(catalog.machine("mi300x"))  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no such file"):
        price_source("pulbic", None)


def test_a_plan_without_prices_says_nothing_about_money() -> None:
    plain, priced = kvplan.plan("chat", limit=30), kvplan.plan("chat", limit=30, prices="public")
    assert (plain.costs.money, plain.costs.money_without, plain.costs.price_flips) == (None, None, ())
    assert priced.costs.money is not None and priced.costs.money_without is not None
    assert priced.costs.money.per_hour.value > priced.costs.money_without.per_hour.value == 0.78
    assert "USD" not in plain.verdict.sentence
