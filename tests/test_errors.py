"""What a decoder found wrong, in the words of people."""

from __future__ import annotations

import msgspec
import pytest

from kvplan.errors import misfit


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: float = 1.0


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    count: int = 0
    part: Part | None = None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "a", "cuont": 3}, "file: cuont is not a setting"),
        ({"name": "a", "part": {"sise": 3}}, "file: part.sise is not a setting"),
        ({"count": 3}, "file: name is missing"),
        ({"name": 3}, "file: name: text is expected, not a whole number"),
        ({"name": "a", "part": {"size": "large"}}, "file: part.size: a number is expected, not text"),
    ],
)
def test_misfits_in_plain_words(given: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Whole)
    assert misfit(caught.value, "file").message == words


def test_an_unknown_field_is_compared_with_those_that_are_known() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"name": "a", "cuont": 3}, Whole)
    assert misfit(caught.value, "file", Whole.__struct_fields__).hint == "did you mean count?"
