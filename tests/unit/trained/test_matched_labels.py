"""A data set's labels are the model's by name, whatever their number and order."""

from __future__ import annotations

import unicodedata

import pytest

from vit_colossal.errors import ConfigError
from vit_colossal.trained.split import outputs_of

MODEL = ("cat", "dog", "Äpfel", "grüner Tee", "train")
MANY = tuple(f"n{number:08d}" for number in range(120))


@pytest.mark.parametrize(
    ("theirs", "outputs"),
    [
        (MODEL, (0, 1, 2, 3, 4)),
        (("dog", "cat"), (1, 0)),
        (("grüner Tee",), (3,)),
        (tuple(unicodedata.normalize("NFD", label) for label in MODEL), (0, 1, 2, 3, 4)),
        (("train", "Äpfel", "cat"), (4, 2, 0)),
    ],
)
def test_a_part_and_another_order_are_matched(
    theirs: tuple[str, ...], outputs: tuple[int, ...]
) -> None:
    assert outputs_of(MODEL, theirs, "ph") == outputs


def test_numbers_are_names_of_a_model_that_has_them() -> None:
    assert outputs_of(("0", "1", "10", "9"), ("9", "10"), "ph") == (3, 2)
    assert outputs_of(MANY, MANY[::-7], "ph") == tuple(range(119, -1, -7))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (("cat", "dog", "bird"), "does not know 1 of its 3 labels: 'bird'"),
        (("Cat", "dog"), "does not know 1 of its 2 labels: 'Cat'"),
        (("0", "1"), "numbers do not say which of these they mean"),
        (MANY, "does not know 120 of its 120 labels"),
        (("apfel",), "it knows 'cat', 'dog', 'Äpfel'"),
    ],
)
def test_an_unknown_name_is_listed(theirs: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        outputs_of(MODEL, theirs, "ph")
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300


def test_two_names_of_one_output_are_refused() -> None:
    theirs = ("Äpfel", unicodedata.normalize("NFD", "Äpfel"))
    with pytest.raises(ConfigError, match="the same but for Unicode"):
        outputs_of(MODEL, theirs, "ph")
