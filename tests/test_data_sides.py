"""Sides: the asked shares, decided by a root's id alone."""

import math
from collections import Counter

import pytest
from pydantic import ValidationError

from understudy.data.sides import Split, side_of

ROOTS = [f"{number:016x}" for number in range(20_000)]


def shares(split: Split, *, gold: bool) -> dict[str, float]:
    counts = Counter(side_of(root, split, gold=gold) for root in ROOTS)
    return {side: counts[side] / len(ROOTS) for side in ("train", "validation", "calibration", "test")}


def close(share: float, asked: float) -> bool:
    """Within four standard deviations of a share of 20,000."""
    return abs(share - asked) <= 4 * math.sqrt(asked * (1 - asked) / len(ROOTS))


@pytest.mark.parametrize(
    ("split", "gold", "asked"),
    [
        (Split(), False, (0.65, 0.05, 0.1, 0.2)),
        (Split(), True, (0.85, 0.05, 0.1, 0.0)),
        (Split(test=0.3, validation=0.2, calibration=0.1), False, (0.4, 0.2, 0.1, 0.3)),
        (Split(test=0.3), True, (0.55, 0.05, 0.1, 0.3)),
        (Split(test=0, validation=0, calibration=0), False, (1.0, 0.0, 0.0, 0.0)),
        (Split(test=0.001, validation=0.001, calibration=0.001), False, (0.997, 0.001, 0.001, 0.001)),
    ],
)
def test_the_shares_are_the_asked_ones(split, gold, asked):
    found = shares(split, gold=gold)
    assert sum(found.values()) == pytest.approx(1)
    for share, expected in zip(found.values(), asked, strict=True):
        assert close(share, expected), found


def test_a_gold_test_needs_no_root_held_out():
    assert shares(Split(), gold=True)["test"] == 0
    assert shares(Split(test=0), gold=False)["test"] == 0


def test_a_side_is_decided_by_the_root_alone_and_never_moves():
    split = Split()
    pinned = [side_of(root, split, gold=False) for root in ROOTS[:12]]
    assert pinned == [
        "test",
        "train",
        "train",
        "test",
        "train",
        "test",
        "train",
        "test",
        "calibration",
        "train",
        "calibration",
        "train",
    ]
    shuffled = sorted(ROOTS, key=lambda root: root[::-1])
    sides = {root: side_of(root, split, gold=False) for root in shuffled}
    assert [sides[root] for root in ROOTS[:12]] == pinned


def test_a_larger_test_takes_rows_in_and_gives_none_back():
    small = {root for root in ROOTS if side_of(root, Split(test=0.1), gold=False) == "test"}
    large = {root for root in ROOTS if side_of(root, Split(test=0.2), gold=False) == "test"}
    assert small < large


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"test": 0.5, "validation": 0.3, "calibration": 0.2},
            "test + validation + calibration = 1 leaves nothing to train on; lower them until their sum is under 1",
        ),
        (
            {"validation": 0.5, "calibration": 0.4},
            "test + validation + calibration = 1.1, with test = 0.2 by default, leaves nothing to train on; "
            "lower them until their sum is under 1",
        ),
        ({"test": 1.0}, "Input should be less than 1"),
        ({"validation": -0.1}, "Input should be greater than or equal to 0"),
        ({"test": float("nan")}, "Input should be a finite number"),
        ({"test": "0.2"}, "Input should be a valid number"),
    ],
)
def test_shares_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError) as caught:
        Split(**fields)
    assert caught.value.errors()[0]["msg"].removeprefix("Value error, ") == message
