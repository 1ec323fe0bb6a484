"""Identity by content: pinned, because a changed digest would ask for every answer again."""

import math
from pathlib import Path

import pytest

from understudy.data.fingerprint import canonical, digest, fingerprint, fraction, packed, row_id


def test_the_canonical_form_has_sorted_keys_no_spaces_and_text_as_it_is():
    value = {"b": [1, 2.5, None, True], "a": "é 👍\n", "c": {"z": "", "y": {}}}
    assert canonical(value) == '{"a":"é 👍\\n","b":[1,2.5,null,true],"c":{"y":{},"z":""}}'


def test_order_of_keys_does_not_matter_and_order_of_lists_does():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint((1, 2)) == fingerprint([1, 2])


def test_fingerprints_are_the_same_on_every_machine_and_in_every_version():
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert fingerprint({"stage": "label", "version": 1, "made_from": {"a": [0.1, None]}}) == "03227028f5e384d2"
    assert fingerprint({}) == "44136fa355b3678a"
    assert row_id("unlabeled", "Where is my parcel?") == "ffb63066f7b4d6c8"
    assert fraction("side", "0123456789abcdef") == 0.37205131025610827


def test_parts_are_told_apart():
    assert row_id("ab", "c") != row_id("a", "bc") != row_id("abc")


def test_a_fraction_lies_in_the_unit_interval_and_looks_random():
    drawn = [fraction("side", str(n)) for n in range(4000)]
    assert all(0 <= value < 1 for value in drawn)
    assert abs(sum(drawn) / 4000 - 0.5) < 4 * math.sqrt(1 / 12 / 4000)
    assert len(set(drawn)) == 4000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"deep": [1, {"er": float("nan")}]}])
def test_numbers_that_json_has_no_word_for_are_refused(value):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        fingerprint(value)


@pytest.mark.parametrize("value", [{1, 2}, frozenset(), Path("a"), b"bytes", object()])
def test_values_without_one_spelling_are_refused(value):
    with pytest.raises(TypeError, match="is not JSON serializable"):
        fingerprint({"value": value})


def test_keys_of_several_kinds_are_refused():
    with pytest.raises(TypeError, match="not supported between"):
        fingerprint({1: "a", "b": 2})


def test_the_fast_form_is_the_canonical_one_for_every_character_and_plain_number():
    texts = ["".join(map(chr, range(start, start + 4096))) for start in range(0, 0x11000, 4096) if start != 0xD000]
    numbers = [0, -1, 2**53, 0.0, -0.5, 1.0, 0.7, 1 / 3, 1e-4, 123456.789, 1e15, 9007199254740993.0, True, None]
    value = {"b": texts, "a": {"z": numbers, "\N{SNOWMAN}": []}, "Z": "", "": {}}

    assert packed(value) == canonical(value).encode()


def test_half_of_a_surrogate_pair_is_kept_as_it_is():
    assert packed({"text": "cut \ud83d"}) == b'{"text":"cut \xed\xa0\xbd"}'
