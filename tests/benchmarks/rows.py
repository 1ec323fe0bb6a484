"""The rows of the table: what each measures, on which server, and what it has to reach.

Times and rates are medians over rounds in which the bare loop and ours take turns, and a share is the median of the
rounds' own shares, because a busy machine is busy for both. What must always hold (nothing lost, nothing asked twice)
is told of the worst round.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from understudy.data.artifact import Artifact
from understudy.data.fingerprint import row_id
from understudy.data.storage import LocalStorage

from . import engine
from .job import Job
from .legs import bare, bare_command, edited_command, finish, kill_half_way, label_command, on_engine, on_ray, ours
from .server import MockTeacher

_FLAT_MB = 16
"""What a heap may gain over three quarters of the rows and still be called flat."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    share: float
    """Of the rows that the full measurement has."""
    million: bool
    """Memory is measured on 1,000,000 rows too."""

    def rows(self, full: int) -> int:
        return round(full * self.share)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    bare: str
    ours: str
    goal: str
    met: bool | None = None
    """None where nothing was asked for, or nothing was measured."""


@dataclass(frozen=True)
class Bench:
    """A server, and a folder in which each round has a job of its own."""

    server: MockTeacher
    folder: Path

    def job(self, name: str, rows: int, concurrency: int, max_failed: float = 0.01, **teacher: float) -> Job:
        job = Job(self.folder / name, self.server.base_url, rows, concurrency, max_failed, teacher)
        job.write()
        return job


def throughput(plan: Plan) -> Iterator[Line]:
    """32 rows for each place in the window, about 11 s: long enough for the middle 80% to be steady."""
    for concurrency, goal in ((64, 0.97), (256, 0.97), (512, 0.93)):
        rows = plan.rows(32 * concurrency)
        with _bench() as bench:
            jobs = [bench.job(str(number), rows, concurrency) for number in range(plan.rounds)]
            rounds = [(bare(job, bench.server), ours(job, bench.server)) for job in jobs]
        steady = [(theirs.steady_per_second, mine.steady_per_second) for theirs, mine in rounds]
        yield _rates(f"requests/s at {concurrency}, from 10% to 90% of the rows", steady, goal)
        whole = [(rows / theirs.seconds, rows / mine.seconds) for theirs, mine in rounds]
        yield _rates(f"requests/s at {concurrency}, start and end included", whole, None)


def cpu(plan: Plan) -> Iterator[Line]:
    rounds = []
    with _bench() as bench:
        for number in range(plan.rounds):
            job = bench.job(str(number), plan.rows(8192), 256)
            other = bench.job(f"{number}-stage", job.rows, 256)
            rounds.append((bare(job, bench.server), ours(job, bench.server), ours(other, bench.server, "stage")))
    theirs, asking, stage = (median(report.cpu_ms for report in reports) for reports in zip(*rounds, strict=True))
    yield Line("CPU ms a request, ledger included", f"{theirs:.2f}", f"{asking:.2f}", "<= 0.6", asking <= 0.6)
    yield Line("CPU ms a row of the whole label stage", "", f"{stage:.2f}", "")


def memory(plan: Plan) -> Iterator[Line]:
    """Once: what a process holds is the same in every round. The stage finds its answers in the ledger."""
    for full in (100_000, 1_000_000) if plan.million else (100_000,):
        with _bench(latency=0.0) as bench:
            job = bench.job(str(full), plan.rows(full), 256)
            theirs, asking = bare(job, bench.server), ours(job, bench.server)
            peak = max(asking.mb_peak, ours(job, bench.server, "stage").mb_peak)
        flat = asking.mb_end - asking.mb_quarter <= _FLAT_MB
        bare_mb, ours_mb = (f"{report.mb_quarter:.0f}, {report.mb_end:.0f}" for report in (theirs, asking))
        yield Line(f"MiB above import, {job.rows:,} rows: at 25%, at the end", bare_mb, ours_mb, "flat", flat)
        yield Line(f"MiB above import, {job.rows:,} rows: peak, shards too", "", f"{peak:.0f}", "<= 200", peak <= 200)


def durable(plan: Plan) -> Iterator[Line]:
    with _bench() as bench:
        jobs = [bench.job(str(number), 256, 64) for number in range(plan.rounds)]
        wait = median(ours(job, bench.server).first_durable_seconds for job in jobs)
    yield Line("s from the first answer to the first durable row", "", f"{wait:.3f}", "<= 0.5", wait <= 0.5)


def kill(plan: Plan) -> Iterator[Line]:
    """A row is in flight until its answer is durable, so a window's worth may be paid for twice."""
    rows, window = plan.rows(4096), 128
    theirs, mine, wrong = [], [], Counter[str]()
    with _bench() as bench:
        for number in range(plan.rounds):
            job = bench.job(str(number), rows, window)
            theirs.append(_paid_twice(bare_command(job), bench.server, rows))
            mine.append(_paid_twice(label_command(job), bench.server, rows))
            wrong += _wrong(job, bench.server)
    what = f"kill -9 at half of {rows:,}, run again: paid twice"
    yield Line(what, str(max(theirs)), str(max(mine)), f"<= {window}", max(mine) <= window)
    found = ", ".join(f"{wrong[kind]} {kind}" for kind in ("lost", "duplicate", "wrong"))
    yield Line("... its rows", "", found, "none", not wrong.total())


def faults(plan: Plan) -> Iterator[Line]:
    slower, lost = [], 0
    with _bench() as clean, _bench(p500=0.05, p429=0.02) as faulty:
        for number in range(plan.rounds):
            jobs = [(bench.job(str(number), plan.rows(8192), 256), bench.server) for bench in (clean, faulty)]
            reports = [(bare(*job), ours(*job)) for job in jobs]
            slower.append([after.seconds / before.seconds for before, after in zip(*reports, strict=True)])
            lost = max(lost, *(mine.lost for _, mine in reports))
    theirs, mine = (median(ratios) for ratios in zip(*slower, strict=True))
    what = "5% answer 500, 2% answer 429: times slower"
    yield Line(what, f"{theirs:.2f}", f"{mine:.2f}", "<= 1.15", mine <= 1.15)
    yield Line("... rows lost", "", str(lost), "0", lost == 0)


def poison(plan: Plan) -> Iterator[Line]:
    """Once: which prompts fail is not left to chance."""
    with _bench(p_poison=0.01) as bench:
        job = bench.job("poison", plan.rows(4096), 128, max_failed=1.0)
        finish(label_command(job))
        poisoned = {row_id("unlabeled", said) for said in job.inputs() if bench.server.poisons(said)}
        wrong, failed = _wrong(job, bench.server), _labelled(job, "failed")
    exact = {row["id"] for row in failed} == poisoned and wrong == Counter(lost=len(poisoned))
    classes = Counter(f"{row['class']}: {row['message']}" for row in failed)
    said = ", ".join(f"{number} {what}" for what, number in classes.items())
    yield Line(f"{len(poisoned)} of {job.rows:,} prompts fail for ever: failed", "", said, "exactly these", exact)


def edits(plan: Plan) -> Iterator[Line]:
    """Once: requests are counted, not timed. The edited parser keeps one of the server's 5 labels of each reply."""
    with _bench(latency=0.0) as bench:
        job = bench.job("edits", plan.rows(4000), 256)
        added = job.rows // 100
        finish(label_command(job))
        first = bench.server.stats()["received"]
        finish(edited_command(job))
        edited = bench.server.stats()["received"] - first
        outputs = {row["completion"] for row in _labelled(job, "default")}
        job.add(job.rows, job.rows + added)
        finish(label_command(job))
        more = bench.server.stats()["received"] - first - edited
    yield Line(
        f"parser edited, {first:,} answers: requests sent", "", str(edited), "0", not edited and len(outputs) == 5
    )
    yield Line(f"{added} rows added: requests sent", "", str(more), str(added), more == added)


def ray(plan: Plan) -> Iterator[Line]:
    """Each worker has 8 places of its own and 400 rows; the rate is that between 10% and 90% of the answers."""
    ratios, rates = [], []
    with _bench() as bench:
        for number in range(plan.rounds):
            one, ten = (bench.job(f"{number}-{workers}", 400 * workers, 8) for workers in (1, 10))
            rates.append((_steady(on_ray(one, 1)), _steady(on_ray(ten, 10))))
            ratios.append(rates[-1][1] / rates[-1][0])
    what = "1 to 10 latency-bound Ray workers: times as many requests/s"
    mine = ", ".join(f"{median(both):.0f}" for both in zip(*rates, strict=True))
    yield Line(what, "", f"{mine} = {median(ratios):.2f}", ">= 9.5", median(ratios) >= 9.5)


def limits(plan: Plan) -> Iterator[Line]:
    """Once: a minute and a half at least, on a server that answers at once."""
    with _bench(latency=0.0) as bench:
        times = on_ray(bench.job("limits", 900, 64, requests_per_minute=600), 2)
    most = max(bisect_left(times, first + 60) - place for place, first in enumerate(times))
    yield Line("two Ray workers under 600 requests a minute: most in any 60 s", "", str(most), "<= 600", most <= 600)


def _steady(times: Sequence[float]) -> float:
    """Answers a second between 10% and 90% of them."""
    first, last = len(times) // 10, len(times) * 9 // 10
    return (last - first) / (times[last] - times[first])


def vllm(plan: Plan) -> Iterator[Line]:
    """Rows a second between 10% and 90% of them; a model of 656K parameters leaves our own share in plain sight."""
    rows, rounds = plan.rows(engine.ROWS), []
    with TemporaryDirectory() as folder:
        for number in range(plan.rounds):
            recipe = engine.write(Path(folder) / str(number), rows)
            rounds.append(tuple(on_engine(recipe, rows, how).steady_per_second for how in ("direct", "ours")))
    yield _rates("vLLM stage against the same engine called directly, rows/s", rounds, 0.95)


@contextmanager
def _bench(latency: float = 0.3, **faults: float) -> Iterator[Bench]:
    with MockTeacher(latency, **faults) as server, TemporaryDirectory() as folder:
        yield Bench(server, Path(folder))


def _rates(what: str, rounds: Sequence[tuple[float, float]], goal: float | None) -> Line:
    """Rows a second of both, and which share of the bare loop's ours are."""
    share = median(ours_rate / bare_rate for bare_rate, ours_rate in rounds)
    theirs, mine = (median(rates) for rates in zip(*rounds, strict=True))
    met = None if goal is None else share >= goal
    return Line(what, f"{theirs:.1f}", f"{mine:.1f} = {share:.3f}", f">= {goal}" if goal else "", met)


def _paid_twice(command: Sequence[str], server: MockTeacher, rows: int) -> int:
    """Answers that were paid for twice, because the command was killed at half of its rows and run again."""
    kill_half_way(command, server, rows)
    finish(command)
    return int(server.stats()["repeated_ok"])


def _labelled(job: Job, config: str) -> list[dict[str, Any]]:
    """Rows of one config that the label stage wrote last."""
    manifests = job.root.glob("stages/label-*/manifest.json")
    folder = max(manifests, key=lambda manifest: manifest.stat().st_mtime_ns).parent
    stage, _, fingerprint = folder.name.partition("-")
    return list(Artifact(LocalStorage(job.root), stage, fingerprint).rows(config))


def _wrong(job: Job, server: MockTeacher) -> Counter[str]:
    """Rows of the label stage that are not what was asked for, by what is wrong."""
    rows = _labelled(job, "default")
    wanted, found = Counter(job.inputs()), Counter(row["prompt"] for row in rows)
    return Counter(
        lost=(wanted - found).total(),
        duplicate=(found - wanted).total(),
        wrong=sum(row["completion"] != server.reply(row["prompt"]) for row in rows),
    )


ROWS: dict[str, Callable[[Plan], Iterator[Line]]] = {
    row.__name__: row for row in (throughput, cpu, memory, durable, kill, faults, poison, edits, ray, limits, vllm)
}
