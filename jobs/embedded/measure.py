"""Measures the embedded teacher: what it reads, what it writes, and how near its corpus comes to the hand-written test.

    python -m understudy.jobs.embedded.measure build/embedded

Prints one JSON object: accuracy on the grammar test and on the hand-written messages, the share of written messages
that the model itself labels as it was asked to, distinct-3 and self-BLEU of written and of composed messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from math import exp, log
from pathlib import Path

from ...data.rows import Answer, Failed, Message, Prompt
from ...data.sources import read_pairs
from ...data.teacher import Sampling
from ...pipeline.prompts import Template
from ...pipeline.recipe import load_recipe
from ...teachers.transformers import TransformersTeacher
from .grammar import Grammar
from .make import JOB, prompt_text

Pairs = list[tuple[str, str]]


def accuracy(model: TransformersTeacher, rows: Pairs, labels: Sequence[str]) -> tuple[float, Counter[tuple[str, str]]]:
    """Points right, and the pairs (right label, said label) that were not."""
    said = read(model, [text for text, _ in rows], labels)
    wrong = Counter((label, other) for (_, label), other in zip(rows, said, strict=True) if other != label)
    return 100 * (1 - wrong.total() / len(rows)), wrong


def read(model: TransformersTeacher, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The model's label of each message."""
    template = Template((JOB / "prompts/label.j2").read_text(encoding="utf-8"), "label.j2")
    prompts = [
        Prompt(str(number), template.render({"input": text}), choices=tuple(labels))
        for number, text in enumerate(texts)
    ]
    return [answer.text for answer in _ask(model, prompts, Sampling()) if isinstance(answer, Answer)]


def write(model: TransformersTeacher, count: int, grammar: Grammar, seeds: Pairs, temperature: float) -> Pairs:
    """Messages as the demo asks for them, with the label that was asked for."""
    template = Template((JOB / "prompts/generate.j2").read_text(encoding="utf-8"), "generate.j2")
    labels = list(grammar.labels)
    draw = random.Random(0)
    asked, prompts = [], []
    for number in range(count):
        label = labels[number % len(labels)]
        example = draw.choice([text for text, output in seeds if output == label])
        asked.append(label)
        text = prompt_text(template, {"label": label, "examples": [example]})
        prompts.append(Prompt(str(number), (Message("user", text),), sample=number))
    said = _ask(model, prompts, Sampling(temperature=temperature, max_tokens=96))
    return [(answer.text, label) for answer, label in zip(said, asked, strict=True) if isinstance(answer, Answer)]


def _ask(model: TransformersTeacher, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer | Failed]:
    async def ask() -> list[Answer | Failed]:
        return list(await asyncio.gather(*(model.answer(prompt, sampling) for prompt in prompts)))

    return asyncio.run(ask())


def distinct(texts: Sequence[str], order: int = 3) -> float:
    """Share of word n-grams that differ from all others. Source: Li et al. 2016, arXiv:1510.03055."""
    grams = [tuple(words[at : at + order]) for words in map(str.split, texts) for at in range(len(words) - order + 1)]
    return len(set(grams)) / max(1, len(grams))


def self_bleu(texts: Sequence[str], sample: int = 300, order: int = 3) -> float:
    """Mean BLEU of a message against all others, smoothed by one. Source: Zhu et al. 2018, arXiv:1802.01886."""
    words = [text.lower().split() for text in texts]
    holders: list[dict[tuple[str, ...], list[tuple[int, int]]]] = [{} for _ in range(order)]
    for number, line in enumerate(words):
        for size in range(order):
            for gram, count in _grams(line, size + 1).items():
                holders[size].setdefault(gram, []).append((number, count))
    total = 0.0
    for number in random.Random(0).sample(range(len(words)), min(sample, len(words))):
        logs = 0.0
        for size in range(order):
            own = _grams(words[number], size + 1)
            hits = 0
            for gram, count in own.items():
                most = max((other for holder, other in holders[size][gram] if holder != number), default=0)
                hits += min(count, most)
            logs += log((hits + 1) / (sum(own.values()) + 1)) / order
        total += exp(logs)
    return total / min(sample, len(words))


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))


def nearest(handwritten: Pairs, grammar: Grammar, per_label: int = 4000) -> list[dict[str, object]]:
    """For each hand-written message the corpus message that shares most words with it (Jaccard of word sets)."""
    corpus = [
        (message.text, set(message.text.lower().split()))
        for label in grammar.labels
        for message in islice(grammar.messages(label, 0), per_label)
    ]
    found: list[dict[str, object]] = []
    for text, label in handwritten:
        words = set(text.lower().split())
        near, share = max(
            ((other, len(words & theirs) / len(words | theirs)) for other, theirs in corpus), key=lambda pair: pair[1]
        )
        found.append({"input": text, "output": label, "nearest": near, "jaccard": round(share, 3)})
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--neighbours", type=Path, help="write the nearest corpus message of each hand-written one")
    chosen = arguments.parse_args()
    grammar = Grammar()
    labels = list(grammar.labels)
    tests = {
        name: [(row.input, row.output or "") for row in read_pairs(f"{name}.jsonl", JOB, name, answered=True)]
        for name in ("grammar_test", "handwritten", "seeds")
    }
    model = TransformersTeacher(chosen.folder, batch=64)
    result: dict[str, object] = {}
    for name in ("grammar_test", "handwritten"):
        right, wrong = accuracy(model, tests[name], labels)
        result[name] = round(right, 2)
        result[f"{name}_mistakes"] = [f"{a} as {b}: {n}" for (a, b), n in wrong.most_common(8)]
    stage = load_recipe(JOB / "recipe.yaml").recipe.generate
    assert stage is not None
    written = write(model, 2000, grammar, tests["seeds"], stage.temperature)
    said = read(model, [text for text, _ in written], labels)
    valid = sum(label == other for (_, label), other in zip(written, said, strict=True))
    result["written_valid"] = round(100 * valid / len(written), 2)
    each = -(-2000 // len(labels))
    composed = [message.text for label in labels for message in islice(grammar.messages(label, 2), each)]
    for name, texts in (("written", [text for text, _ in written]), ("composed", composed[:2000])):
        result[f"{name}_distinct_3"] = round(distinct(texts), 4)
        result[f"{name}_self_bleu"] = round(self_bleu(texts), 4)
    if chosen.neighbours:
        near = nearest(tests["handwritten"], grammar)
        lines = [json.dumps(row, ensure_ascii=False) for row in near]
        chosen.neighbours.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    print("\n".join(f"  {label:<13} {text!r}" for text, label in written[:14]))


if __name__ == "__main__":
    main()
