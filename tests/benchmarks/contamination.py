"""How many planted leaks are found, and how many rows that are none: `python -m tests.benchmarks.contamination`.

Test texts of real datasets are planted into training rows as they are, in another case, with one word changed or left
out, and inside longer text. Then the training rows themselves are compared with the tests, as they come. Of those that
are called leaks the ones under another label than the test's are taken to be none, and some are shown; rows of the
other datasets are none either. `--scores` has a linear model learn from all rows, from those that are not called leaks,
and from as many at random, and tells its scores on the tests that were found and on the others: some minutes more.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from understudy.data.contamination import KINDS, Contamination, Leak
from understudy.pipeline.baselines import Linear

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
SHOWN = 5

Texts = list[tuple[str, str]]
"""With the label, empty where there is none."""

Found = list[tuple[str, str, Leak]]
"""Rows, their labels, and what they were found to have."""


def datasets() -> Iterator[tuple[str, Texts, Texts]]:
    """Name, training rows and test rows."""
    for name, test, text, label in (
        ("banking77", "test", "text", "label"),
        ("snips", "validation", "text", "intent"),
        ("gsm8k", "test", "question", ""),
    ):
        read = [pq.read_table(DATASETS / name / f"{part}.parquet").to_pylist() for part in ("train", test)]
        train, held_out = ([(row[text], str(row.get(label, ""))) for row in rows] for rows in read)
        yield name, train, held_out


def planted(text: str, draw: random.Random, others: list[str]) -> Iterator[tuple[str, str]]:
    """The leak of each kind."""
    words = text.split()
    place = draw.randrange(len(words))
    fresh = draw.choice(draw.choice(others).split())
    yield "as it is", text
    yield "another case", "".join(draw.choice((letter.upper(), letter.lower())) for letter in text)
    yield "one word changed", " ".join([*words[:place], fresh, *words[place + 1 :]])
    yield "one word left out", " ".join([*words[:place], *words[place + 1 :]])
    yield "inside longer text", f"{draw.choice(others)} {text} {draw.choice(others)}"


def recall(tests: Texts, others: list[str], find: Callable[[str], object]) -> dict[str, tuple[int, int]]:
    draw = random.Random(0)
    found: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for text, _ in tests:
        for kind, leak in planted(text, draw, others):
            made[kind] += 1
            found[kind] += find(leak) is not None
    return {kind: (found[kind], made[kind]) for kind in made}


def known(name: str, tests: Texts) -> Contamination:
    index = Contamination()
    for text, _ in tests:
        index.add(name, text)
    return index


def say_recall(tests: Texts, train: Texts, index: Contamination) -> None:
    for kind, (found, made) in recall(tests, [text for text, _ in train], index.find).items():
        print(f"  {kind:<20} {found:>6,} of {made:>6,} found, {100 * found / made:.2f}%")


def say_rows(train: Texts, tests: Texts, found: Found) -> None:
    """Training rows that are called leaks, by kind, and those of them that are none."""
    kinds = Counter(leak.kind for _, _, leak in found)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    print(f"  of the training rows called leaks {len(found):,}, {100 * len(found) / len(train):.2f}%: {counted}")
    label_of = {text: label for text, label in reversed(tests)}
    wrong = [(row, leak) for row, label, leak in found if not label or label != label_of[leak.text]]
    labels, rows = Counter(label for _, label in tests), Counter(label for _, label in train)
    pairs = len(train) * len(tests) - sum(rows[label] * labels[label] for label in labels if label)
    kinds = Counter(leak.kind for _, leak in wrong)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    print(f"  of {pairs:,} unrelated pairs called leaks {len(wrong)}, {len(wrong) / pairs:.1e}: {counted}")
    for row, leak in wrong[:SHOWN]:
        print(f"    {leak.kind}: {row!r} for {leak.text!r}")


def say_scores(train: Texts, tests: Texts, found: Found) -> None:
    """What a linear model has right with and without the leaks."""
    leaks = {row for row, _, _ in found}
    clean = [(text, label) for text, label in train if text not in leaks]
    resembled = {leak.text for _, _, leak in found}
    for name, rows in (
        ("all rows", train),
        ("no leaks", clean),
        ("as many at random", random.Random(0).sample(train, len(clean))),
    ):
        answers = Linear.fit(*map(list, zip(*rows, strict=True))).answers([text for text, _ in tests])
        right = [(text in resembled, said == label) for (text, label), (said, _) in zip(tests, answers, strict=True)]
        hit, other = ([good for was, good in right if was is part] for part in (True, False))
        told = (
            f"{100 * sum(hit) / len(hit):.1f} of {len(hit)} tests found, {100 * sum(other) / len(other):.1f} of others"
        )
        print(f"  a linear model from {name:<18} {100 * (sum(hit) + sum(other)) / len(right):.1f} right: {told}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scores", action="store_true")
    given = parser.parse_args()
    read = list(datasets())
    for name, train, tests in read:
        index = known(name, tests)
        print(f"{name}: {len(tests):,} test texts, {len(train):,} training rows")
        say_recall(tests, train, index)
        started = time.perf_counter()
        found = [(row, label, leak) for row, label in train if (leak := index.find(row))]
        print(f"  {len(train) / (time.perf_counter() - started):,.0f} rows/s")
        say_rows(train, tests, found)
        strangers = [text for other, rows, _ in read if other != name for text, _ in rows]
        print(f"  of {len(strangers):,} rows of the other datasets {sum(map(bool, map(index.find, strangers)))}")
        if given.scores and train[0][1]:
            say_scores(train, tests, found)
        swapped = known(name, train)
        started = time.perf_counter()
        for text, _ in tests:
            swapped.find(text)
        minutes = 1e6 / len(tests) * (time.perf_counter() - started) / 60
        print(f"  1 million such rows against {len(train):,} tests would take {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
