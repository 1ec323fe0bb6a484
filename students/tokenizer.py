"""A byte-level BPE of the run's own words, in the form that transformers and vLLM load.

With closed labels every label is one entry of the vocabulary that decodes to the label's own string. No merge leads to
it, so a message that contains the label's word is still read as words. Marking labels as special tokens was rejected:
they would be cut out of messages too, and some servers drop them from answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"

MARKS = (PAD, END, SYSTEM, USER, ASSISTANT)
"""In the order of their numbers."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


_HERE = "GoesOnHere"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, labels: Sequence[str] = (), *, fold_case: bool
) -> PreTrainedTokenizerFast:
    """Learn merges from the texts.

    Args:
        vocabulary: entries at most, the labels not counted.
        labels: closed labels, each of which gets an entry of its own.
        fold_case: read upper and lower case alike; right for a student that only reads.
    """
    learned = learn_merges(texts, vocabulary, MARKS, fold_case=fold_case)
    return as_pretrained(json.loads(learned.to_str()), labels)


def learn_merges(texts: Iterable[str], vocabulary: int, special: Sequence[str], *, fold_case: bool) -> Tokenizer:
    """Byte-level BPE of the texts' words, the special tokens first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFKC()] + ([normalizers.Lowercase()] if fold_case else [])
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_pretrained(learned: dict[str, Any], labels: Sequence[str]) -> PreTrainedTokenizerFast:
    """What was learnt, as tokenizer.json has it, with an entry at the end for each label that has none."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    for label in labels:
        learned["model"]["vocab"].setdefault(as_bytes(label), len(learned["model"]["vocab"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(learned)),
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def as_bytes(text: str) -> str:
    """How byte-level BPE writes a string in its vocabulary: one printable character for each byte of UTF-8."""
    return "".join(_ALPHABET[byte] for byte in text.encode())


def piece_of(tokenizer: PreTrainedTokenizerFast, label: str) -> str:
    """How a label is spelt in the vocabulary: by bytes, as our own BPE does, or as SentencePiece does."""
    by_bytes = tokenizer.convert_tokens_to_ids(as_bytes(" ")) not in (None, tokenizer.unk_token_id)
    return as_bytes(label) if by_bytes else label.replace(" ", "\u2581")


def label_tokens(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[int]:
    """Token of every label."""
    return [int(tokenizer.convert_tokens_to_ids(piece_of(tokenizer, label))) for label in labels]


def only_reads(tokenizer: PreTrainedTokenizerFast) -> bool:
    """An encoder's: it knows no turns, and puts its marks around a text itself."""
    return tokenizer.chat_template is None


def answer_ids(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[int]:
    """What stands for every label: its token, or its number to a model that only reads."""
    return list(range(len(labels))) if only_reads(tokenizer) else label_tokens(tokenizer, labels)


def turn_end(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends an answer: what the chat template writes after one, else the tokenizer's own end."""
    after = _after(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": _HERE}])
    special = tokenizer.get_added_vocab().values()
    ends = [token for token in tokenizer(after, add_special_tokens=False)["input_ids"] if token in special]
    return int(ends[0] if ends else tokenizer.eos_token_id)


def answer_mark(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens between what a user says and the answer; of an encoder's that which closes a text."""
    if only_reads(tokenizer):
        marks: list[int] = tokenizer("")["input_ids"]
        return marks[-1:]
    after = _after(tokenizer, [{"role": "user", "content": _HERE}], add_generation_prompt=True)
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    return ids


def question_mark(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens before what a user says."""
    text: str = tokenizer.apply_chat_template([{"role": "user", "content": _HERE}], tokenize=False)
    ids: list[int] = tokenizer(text.partition(_HERE)[0], add_special_tokens=False)["input_ids"]
    return ids


def _after(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **given: bool) -> str:
    """What the chat template writes after the last message's text."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **given)
    return text.rpartition(_HERE)[2]


def merge_parents(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int] | None]:
    """For each token the two it was merged from; None for bytes, special tokens and labels."""
    learned: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = learned["vocab"]
    parents: list[tuple[int, int] | None] = [None] * len(vocabulary)
    for left, right in learned["merges"]:
        parents[vocabulary[left + right]] = (vocabulary[left], vocabulary[right])
    return parents


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and its configuration, the chat template inside."""
    tokenizer.save_pretrained(folder)


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()
