"""Every architecture that vLLM 0.24 to 0.33 lists for text, images or sound: a model of its family is in the catalog, or its family
is read, or it is refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path

from kvplan import catalog
from kvplan.model.families import FAMILIES

LISTED = [json.loads(line) for line in Path(__file__).with_name("vllm_architectures.jsonl").read_text().splitlines()]


def test_listed_architectures_have_a_model_or_a_family() -> None:
    shipped = set(catalog.names("models"))
    assert {row["model"] for row in LISTED if "model" in row} <= shipped
    assert {row["family"] for row in LISTED if "family" in row} <= set(FAMILIES)
    kinds = [next(key for key in row if key != "architecture") for row in LISTED]
    assert len(kinds) == 302
    assert kinds.count("model") >= 230
    assert kinds.count("refused") <= 24


def test_every_model_says_where_its_fields_come_from() -> None:
    for name in catalog.names("models"):
        assert len(catalog.model(name).source) > 20, name
