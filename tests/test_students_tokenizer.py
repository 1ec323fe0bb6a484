from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from understudy.students.tokenizer import (
    label_tokens,
    merge_parents,
    save_tokenizer,
    train_tokenizer,
)

LABELS = ("refund", "Card arrival", "übrig_7")
TEXTS = ["I want a refund for my card", "the card has not arrived, a refund please", "Grüße aus Köln"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, LABELS, fold_case=True)


def test_a_label_token_decodes_to_the_labels_own_string(tokenizer):
    tokens = label_tokens(tokenizer, LABELS)

    assert len(set(tokens)) == len(LABELS)
    assert [tokenizer.decode([token]) for token in tokens] == list(LABELS)


def test_a_message_with_a_labels_words_is_read_as_words(tokenizer):
    tokens = tokenizer("My refund: Card arrival übrig_7", add_special_tokens=False)["input_ids"]

    assert not set(tokens) & set(label_tokens(tokenizer, LABELS))


def test_every_text_can_be_read_and_written_again():
    exact = train_tokenizer(TEXTS, 400, fold_case=False)

    for text in ("Grüße, 漢字 🙂 and\ttabs", "plain"):
        assert exact.decode(exact(text, add_special_tokens=False)["input_ids"]).strip() == text


def test_a_saved_tokenizer_loads_without_our_code(tokenizer, tmp_path: Path):
    save_tokenizer(tokenizer, tmp_path)

    loaded = AutoTokenizer.from_pretrained(tmp_path)

    assert loaded.chat_template == tokenizer.chat_template
    assert loaded("I want a refund")["input_ids"] == tokenizer("I want a refund")["input_ids"]
    assert loaded.convert_tokens_to_ids("<|end|>") == loaded.eos_token_id


def test_a_token_splits_into_the_two_it_was_merged_from(tokenizer):
    parents = merge_parents(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))

    merged = [(token, pair) for token, pair in enumerate(parents) if pair is not None]
    assert merged
    for token, (left, right) in merged:
        assert pieces[left] + pieces[right] == pieces[token]
    for token in label_tokens(tokenizer, LABELS):
        assert parents[token] is None or pieces[token] == "refund"
