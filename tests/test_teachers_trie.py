import math
from itertools import product

import pytest

from understudy.teachers.trie import Trie

ENDS = (8, 9)


def logp(beginning: tuple[int, ...], token: int) -> float:
    """A model of ten tokens that depends on all it has read."""
    weights = [1 + (7 * sum(beginning) + 3 * len(beginning) + other * other) % 5 for other in range(10)]
    return math.log(weights[token] / sum(weights))


def test_scores_are_those_of_whole_sequences_with_their_ends():
    choices = [(1,), (1, 2), (1, 2, 3), (1, 3), (4, 5)]
    trie = Trie(choices, ENDS)

    scores = trie.scores({(begun, token): logp(begun, token) for begun, ids in trie.questions(128) for token in ids})

    whole = [
        math.prod(math.exp(logp(ids[:i], token)) for i, token in enumerate(ids))
        * sum(math.exp(logp(ids, end)) for end in ENDS)
        for ids in choices
    ]
    assert [math.exp(score) for score in scores] == pytest.approx([mass / sum(whole) for mass in whole])


def test_what_choices_share_is_asked_once():
    asked = dict(Trie([(1, 2, 3), (1, 2, 4), (1, 2)], ENDS).questions(128))

    assert asked == {(): [1], (1,): [2], (1, 2): [3, 4, 8, 9], (1, 2, 3): [8, 9], (1, 2, 4): [8, 9]}


def test_choices_without_ends_ask_for_their_own_tokens_only():
    assert Trie([(1,), (2,)], ()).questions(128) == [((), [1, 2])]


def test_an_empty_choice_is_ending_at_once():
    trie = Trie([(), (8,)], (9,))

    assert trie.questions(128) == [((), [9, 8]), ((8,), [9])]
    assert trie.scores({((), 9): -1.0, ((), 8): -1.0, ((8,), 9): 0.0}) == pytest.approx([math.log(0.5)] * 2)


def test_no_question_is_longer_than_allowed():
    pairs = list(product(range(3), range(7)))

    questions = Trie(pairs, ()).questions(3)

    assert max(len(tokens) for _, tokens in questions) == 3
    assert sorted((*begun, token) for begun, tokens in questions if begun for token in tokens) == pairs


def test_very_unlikely_choices_do_not_run_out_of_numbers():
    trie = Trie([(1,), (2,)], ())

    assert trie.scores({((), 1): -2000.0, ((), 2): -2001.0}) == pytest.approx([-0.3132617, -1.3132617])
