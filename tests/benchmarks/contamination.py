"""How many planted leaks are found, and how many texts that are none: `python -m tests.benchmarks.contamination`.

Test texts of real datasets are planted into training rows as they are, in another case, with one word changed, and
inside longer text. Unrelated pairs are training rows against test texts of the same dataset, of other labels where it
has labels; every one that is called a leak is shown.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from understudy.data.contamination import Contamination

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
SHOWN = 5

Texts = list[tuple[str, str]]
"""With the label, empty where there is none."""


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


def main() -> None:
    for name, train, tests in datasets():
        index = Contamination()
        label_of = {}
        for text, label in tests:
            index.add(name, text)
            label_of[text] = label
        others = [text for text, _ in train]
        print(f"{name}: {len(tests):,} test texts, {len(train):,} training rows")
        for kind, (found, made) in recall(tests, others, index.find).items():
            print(f"  {kind:<20} {found:>6,} of {made:>6,} found, {100 * found / made:.2f}%")
        started = time.perf_counter()
        leaks = [(row, label, leak) for row, label in train if (leak := index.find(row))]
        seconds = time.perf_counter() - started
        kinds = Counter(leak.kind for _, _, leak in leaks)
        told = f"{100 * len(leaks) / len(train):.2f}% ({dict(kinds)}), {len(train) / seconds:,.0f} rows/s"
        print(f"  training rows called leaks as they come: {len(leaks)} of {len(train):,}, {told}")
        wrong = [(row, leak.text) for row, label, leak in leaks if label and label != label_of[leak.text]]
        print(f"  of them under another label than the test's: {len(wrong)}")
        pairs = len(train) * len(tests)
        print(f"  of all {pairs:,} pairs {len(leaks) / pairs:.1e}")
        for row, text in (wrong or [(row, leak.text) for row, _, leak in leaks])[:SHOWN]:
            print(f"    {row!r}\n    {text!r}")


if __name__ == "__main__":
    main()
