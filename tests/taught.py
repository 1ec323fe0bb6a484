"""Jobs whose teacher is a table of the right answers, so that a small student has learnt its part in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe

WORDS = {
    "delivery": ("parcel", "courier", "late", "tracking", "doorstep"),
    "refund": ("money", "refund", "bank", "repay", "owed"),
    "Log in": ("password", "locked", "login", "code", "account"),
}
FILLERS = ("please", "today", "again", "my", "the", "still", "about", "why")


def messages(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with the label whose words they hold."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = list(WORDS)[number % len(WORDS)]
        first, second = draw.sample(WORDS[label], 2)
        some = draw.sample(FILLERS, 4)
        rows.append({"input": f"{some[0]} {first} {' '.join(some[1:])} {second} {number}", "output": label})
    return rows


def bookings(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = [(draw.choice(("Rome", "Oslo")), draw.randrange(1, 4), number) for number in range(count)]
    return [
        {"input": f"please book {seats} seats to {city} {number}", "output": {"city": city, "seats": seats}}
        for city, seats, number in rows
    ]


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


def write_job(
    folder: Path,
    task: dict[str, Any],
    students: dict[str, dict[str, Any]],
    rows: list[dict[str, Any]],
    gold: list[dict[str, Any]],
) -> None:
    """A recipe whose teacher is a table of the right answers."""
    for name, some in (
        ("pool", [{"input": row["input"]} for row in rows]),
        ("answers", [*rows, *gold]),
        ("gold", gold),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = {
        "name": "out",
        "task": {**task, "instruction": "Answer.", "unlabeled": "pool.jsonl"},
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "evaluate": {"margin": 20},
    }
    recipe["students"] = {
        name: {
            "init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512},
            "train": {"batch": 16, "learning_rate": 0.003, "max_length": 64, **train},
        }
        for name, train in students.items()
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))


def a_classifier(folder: Path, labels: Sequence[str]) -> Path:
    """A model that classifies sequences, with random weights and its own start and end of a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(word for some in WORDS.values() for word in some))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = BertConfig(
        vocab_size=len(words),
        initializer_range=0.4,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        **shape,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
