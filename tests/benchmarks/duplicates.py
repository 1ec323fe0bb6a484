"""Duplicates among many short rows: `python -m tests.benchmarks.duplicates [--million]`, beside datasketch.

Rows are composed of real requests (banking77, snips): a tenth are copies of earlier ones, a tenth have one word
changed. Prints rows a second, the memory that the index took, and, over a sample small enough to compare each with
each, how many of the rows with a copy before them are found and how many are called copies that are none. datasketch is
compared where it is installed. `--million` also curates a million labelled rows, in a process of its own.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from understudy.data.duplicates import DuplicateRecipe, Duplicates, fold, shingles, similarity

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
THRESHOLD = 0.8
COMPARED = 3000

Seen = Callable[[int, str], bool]
"""Whether a row repeats an earlier one; it is remembered where it does not."""


def composed(rows: int, seed: int = 0) -> Iterator[str]:
    """Short rows of real words; what is repeated is drawn from the last 100,000."""
    draw = random.Random(seed)
    real = [
        text
        for name in ("banking77", "snips")
        for text in pq.read_table(DATASETS / name / "train.parquet").column("text").to_pylist()
    ]
    words = sorted({word for text in real for word in text.split()})
    kept: list[str] = []
    for _ in range(rows):
        kind = draw.random()
        if kept and kind < 0.2:
            parts = draw.choice(kept).split()
            if kind < 0.1:
                parts[draw.randrange(len(parts))] = draw.choice(words)
        else:
            one, other = draw.choice(real).split(), draw.choice(real).split()
            parts = one[: draw.randint(min(3, len(one)), len(one))] + other[draw.randint(0, max(0, len(other) - 3)) :]
            for _ in range(2):
                parts[draw.randrange(len(parts))] = draw.choice(words)
        text = " ".join(parts[:30])
        if len(kept) < 100_000:
            kept.append(text)
        else:
            kept[draw.randrange(100_000)] = text
        yield text


def ours() -> Seen:
    known = Duplicates(DuplicateRecipe(near=THRESHOLD))
    return lambda number, text: known.seen(str(number), text) is not None


def datasketch() -> Seen:
    """The same sets, with what datasketch recommends for this threshold."""
    from datasketch import MinHash, MinHashLSH

    index, exact = MinHashLSH(threshold=THRESHOLD, num_perm=128), set[str]()

    def seen(number: int, text: str) -> bool:
        folded = fold(text)
        if folded in exact:
            return True
        sketch = MinHash(num_perm=128)
        sketch.update_batch([part.encode() for part in shingles(folded)])
        if index.query(sketch):
            return True
        exact.add(folded)
        index.insert(number, sketch)
        return False

    return seen


def memory() -> float:
    """MiB of this process, at most until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(name: str, seen: Seen, rows: int) -> None:
    texts = list(composed(rows))
    before, started = memory(), time.perf_counter()
    found = sum(seen(number, text) for number, text in enumerate(texts))
    seconds = time.perf_counter() - started
    print(
        f"{name}: {rows:,} rows, {rows / seconds:,.0f} rows/s, {memory() - before:,.0f} MiB, {found:,} copies",
        flush=True,
    )


def right(name: str, seen: Seen) -> None:
    """Against comparing each row with each that was kept before."""
    kept: list[set[str]] = []
    copies = hits = wrong = 0
    for number, text in enumerate(composed(COMPARED, seed=1)):
        parts = shingles(fold(text))
        true = any(similarity(parts, other) >= THRESHOLD for other in kept)
        said = seen(number, text)
        copies, hits, wrong = copies + true, hits + (true and said), wrong + (said and not true)
        if not said:
            kept.append(parts)
    print(f"{name}: of {copies} rows with a copy before them {hits} found; {wrong} called copies that are none")


CURATE = """
import json, resource, sys, time
from pathlib import Path
from tests.benchmarks.duplicates import composed, memory
from understudy.data.artifact import Artifact
from understudy.data.fingerprint import row_id
from understudy.data.rows import Example
from understudy.data.sides import Split, side_of
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.curate import curate
from understudy.pipeline.examples import ExampleWriter
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
folder, rows, part = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
storage = LocalStorage(folder / "root")
labelled = Artifact(storage, "label", "0" * 16)
if part == "label":
    writer = ExampleWriter(labelled)
    for number, text in enumerate(composed(rows)):
        name = row_id(str(number), text)
        writer.add(Example(name, text, "ab"[number % 2], name, side_of(name, Split(), gold=False), "unlabeled"))
    labelled.finish({"shards": writer.close(), "rows": writer.counts.as_json()})
else:
    recipe = {"name": "t", "teachers": {"people": {"kind": "table", "model": "a.jsonl"}}}
    recipe["task"] = {"kind": "classify", "instruction": "x", "labels": ["a", "b"], "unlabeled": "a.jsonl"}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "a.jsonl").write_text(json.dumps({"input": "a", "output": "a"}))
    run = Run(load_recipe(folder / "recipe.yaml"), storage, Reporter(quiet=True))
    started = time.perf_counter()
    outcome = curate(run, Artifact(storage, "curate", "0" * 16), labelled)
    seconds = time.perf_counter() - started
    print(f"curate: {rows:,} rows, {rows / seconds:,.0f} rows/s, {memory():,.0f} MiB in all")
    print(f"  {outcome.counts}")
"""


def curated(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for part in ("label", "curate"):
            subprocess.run([sys.executable, "-c", CURATE, folder, str(rows), part], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--million", action="store_true")
    given = parser.parse_args()
    if given.million:  # first, because a process counts the memory of the one that it came from
        curated(1_000_000)
    speed("ours", ours(), given.rows)
    right("ours", ours())
    try:
        speed("datasketch", datasketch(), given.rows)
        right("datasketch", datasketch())
    except ImportError:
        print("datasketch: not installed; pip install datasketch")


if __name__ == "__main__":
    main()
