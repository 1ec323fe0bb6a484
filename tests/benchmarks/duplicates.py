"""Copies among many short messages: `python -m tests.benchmarks.duplicates [--rows 100000] [--million]`.

A message is two real ones, of banking77 and snips, one after the other. One in ten is an earlier one in another case,
one in ten is an earlier one with a word otherwise whose similarity is 0.8 or more, and one in twenty is such a one of
less than 0.8, which is no copy. Nothing else is one, but for an accident in a million: no part is like another part,
and of two messages that share a part, more than a third is of other words.

Ours is measured beside rensa, laid out to find 99 in 100 copies, and datasketch, where they are installed; then on
messages of one template, which are all a little below the threshold. `--million` measures ours and rensa on 1,000,000,
and the whole curate stage on as many labelled rows. Everything runs on one core in a process of its own, whose peak of
memory is printed (Linux); a busy machine changes the rows a second by the clock, but hardly those by CPU time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq

from understudy.data.artifact import Artifact
from understudy.data.duplicates import DuplicateRecipe, Duplicates, fold
from understudy.data.fingerprint import row_id
from understudy.data.rows import Example
from understudy.data.shingles import shingles, similarity
from understudy.data.sides import Split, side_of
from understudy.data.storage import LocalStorage

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
THRESHOLD = 0.8
BANDS, ROWS = 21, 6
"""Of a MinHash index that finds 99 in 100 of the copies at the threshold."""


def alike(one: str, other: str) -> float:
    return similarity(shingles(fold(one)), shingles(fold(other)))


def messages() -> Iterator[tuple[str, str]]:
    """Kind (`new`, `exact` or `near`) and text, without an end."""
    draw = random.Random(0)
    fresh = originals(draw)
    earlier = [next(fresh) for _ in range(1000)]
    yield from (("new", text) for text in earlier)
    while True:
        place, lot = draw.randrange(len(earlier)), draw.random()
        if lot < 0.1:
            yield "exact", f"{earlier[place].upper()}!"
        elif lot < 0.25:
            text, near = changed(earlier[place], draw), lot < 0.2
            while (found := alike(earlier[place], text)) == 1 or (found >= THRESHOLD) is not near:
                place = draw.randrange(len(earlier))
                text = changed(earlier[place], draw)
            if not near:
                del earlier[place]  # another change of it might be a copy of this one
            yield ("near" if near else "new"), text
        else:
            text = next(fresh)
            if len(earlier) < 10_000:
                earlier.append(text)
            else:
                earlier[place] = text
            yield "new", text


def originals(draw: random.Random) -> Iterator[str]:
    """Messages of 6 to 30 words that are no copies of each other."""
    known, parts = Duplicates(DuplicateRecipe(near=0.3)), []
    for name in ("banking77", "snips"):
        for text in pq.read_table(DATASETS / name / "train.parquet")["text"].to_pylist():
            if 3 <= len(fold(text).split()) <= 15 and known.seen("", text) is None:
                parts.append((text, len(fold(text).split())))
    told: set[frozenset[str]] = set()
    while True:
        (one, short), (other, long) = sorted((draw.choice(parts), draw.choice(parts)), key=lambda part: part[1])
        if one != other and {one, other} not in told and 2 * short >= long:
            told.add(frozenset((one, other)))
            yield f"{one} {other}"


def changed(text: str, draw: random.Random) -> str:
    """With one word replaced, put in or left out."""
    words = text.split()
    place, length, new = draw.randrange(len(words)), *draw.choice(((1, ["else"]), (0, ["else"]), (1, [])))
    return " ".join([*words[:place], *new, *words[place + length :]])


def template() -> Iterator[tuple[str, str]]:
    return (("new", f"my order number {n} has not come yet and i want it now") for n in range(10**9))


def ours(texts: Iterable[str]) -> Iterator[bool]:
    known, rows = Duplicates(DuplicateRecipe(near=THRESHOLD)), ((str(n), text) for n, text in enumerate(texts))
    while batch := list(islice(rows, 4096)):
        yield from (copy is not None for copy in known.decide(batch))


def rensa(texts: Iterable[str]) -> Iterator[bool]:
    """Its own index from end to end: one call for all rows."""
    from rensa import RMinHashDeduplicator

    known = RMinHashDeduplicator(THRESHOLD, BANDS * ROWS, use_lsh=True, num_bands=BANDS, seed=1)
    rows = ((str(n), sorted(shingles(fold(text)))) for n, text in enumerate(texts))
    return (not is_new for is_new in known.add_pairs(rows))


def datasketch(texts: Iterable[str]) -> Iterator[bool]:
    """As it lays its index out by itself."""
    from datasketch import MinHash, MinHashLSH

    index, exact = MinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS), set[str]()
    for n, text in enumerate(texts):
        folded = fold(text)
        sketch = MinHash(num_perm=BANDS * ROWS)
        sketch.update_batch([part.encode() for part in shingles(folded)])
        copy = folded in exact or bool(index.query(sketch))
        if not copy:
            exact.add(folded)
            index.insert(n, sketch)
        yield copy


CONTENDERS: dict[str, Callable[[Iterable[str]], Iterator[bool]]] = {
    one.__name__: one for one in (ours, rensa, datasketch)
}


def installed(name: str) -> bool:
    return CONTENDERS[name] is ours or find_spec(name) is not None


def rows_of(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8") as lines:
        yield from (line.rstrip("\n").split("\t", 1) for line in lines)


def peak() -> float:
    """MiB that this process had at most; unlike getrusage, without those of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Watch:
    """Runs from where it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, rows: int) -> tuple[str, str]:
        """Rows a second, by the clock and by CPU time."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return f"{rows / wall:,.0f}", f"{rows / cpu:,.0f}"


def compare(name: str, file: Path) -> str:
    watch = Watch()
    said = list(CONTENDERS[name](text for _, text in rows_of(file)))
    rates = watch.rates(len(said))
    of, found = Counter[str](), Counter[str]()
    for (kind, _), copy in zip(rows_of(file), said, strict=True):
        of[kind] += 1
        found[kind] += copy
    shares = " | ".join(f"{found[kind]:,} of {of[kind]:,}" for kind in ("exact", "near", "new"))
    return f"| {name} | {len(said):,} | {' | '.join(rates)} | {peak():,.0f} | {shares} |"


def label(folder: Path, file: Path) -> None:
    """What the label stage would leave."""
    from understudy.pipeline.examples import ExampleWriter

    labelled = Artifact(LocalStorage(folder / "root"), "label", "0" * 16)
    writer = ExampleWriter(labelled)
    for number, (_, text) in enumerate(rows_of(file)):
        name = row_id(str(number), text)
        writer.add(Example(name, text, "ab"[number % 2], name, side_of(name, Split(), gold=False), "unlabeled"))
    labelled.finish({"shards": writer.close(), "rows": writer.counts.as_json()})


def curate(folder: Path) -> str:
    from understudy.pipeline.context import Run
    from understudy.pipeline.curate import curate
    from understudy.pipeline.progress import Reporter
    from understudy.pipeline.recipe import load_recipe

    task = {"kind": "classify", "instruction": "x", "labels": ["a", "b"], "unlabeled": "a.jsonl"}
    teachers = {"people": {"kind": "table", "model": "a.jsonl"}}
    (folder / "recipe.yaml").write_text(json.dumps({"name": "t", "task": task, "teachers": teachers}))
    (folder / "a.jsonl").write_text(json.dumps({"input": "a", "output": "a"}))
    storage = LocalStorage(folder / "root")
    run = Run(load_recipe(folder / "recipe.yaml"), storage, Reporter(quiet=True))
    watch = Watch()
    outcome = curate(run, Artifact(storage, "curate", "0" * 16), Artifact(storage, "label", "0" * 16))
    wall, cpu = watch.rates(outcome.counts.requested)
    return f"The curate stage: {wall} rows/s, {cpu} a CPU second, {peak():,.0f} MiB\n{outcome.counts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--million", action="store_true")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as apart:

        def written(kind: str, rows: Iterator[tuple[str, str]], count: int) -> Path:
            file = Path(folder, f"{kind}.tsv")
            file.write_text("".join(f"{kind}\t{text}\n" for kind, text in islice(rows, count)), encoding="utf-8")
            return file

        def table(file: Path, *names: str) -> None:
            print("| | rows | rows/s | a CPU second | MiB | exact copies found | near | others called copies |")
            print("|---|---|---|---|---|---|---|---|")
            for name in filter(installed, names):
                print(apart.submit(compare, name, file).result(), flush=True)

        table(written("messages", messages(), given.rows), *CONTENDERS)
        print("\nOf one template:\n")
        table(written("template", template(), 4000), "ours", "rensa")
        if given.million:
            print("\nA million:\n")
            file = written("million", messages(), 1_000_000)
            table(file, "ours", "rensa")
            apart.submit(label, Path(folder), file).result()
            print(f"\n{apart.submit(curate, Path(folder)).result()}")


if __name__ == "__main__":
    main()
