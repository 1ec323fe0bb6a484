"""Commands that look at what runs left, and clean up: `data`, `ledger` and `gc`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import click

from ..data.errors import BadInput
from .command import cli, opened_run, recipe_command, root_or, told_storage

if TYPE_CHECKING:
    from ..data.forgetting import Places
    from ..data.storage import Storage
    from ..pipeline.context import Run
    from ..pipeline.progress import Reporter

_SHOWN = 12
"""Values of a column that are counted on screen."""


@recipe_command(
    "Show a run's rows: what they are, why some are not, where one comes from, and which are alike.",
    example="understudy data jobs/tickets/recipe.yaml --near 'where is my parcel?'",
)
@click.option("--row", help="The lineage of the row with this id, or with one that begins so.")
@click.option("--rejected", metavar="REASON", help="Rows rejected for this, with the evidence.")
@click.option("--near", metavar="TEXT|ID", help="Rows that are like a text, or like a row.")
@click.option("--least", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Similarity for --near.")
@click.option("-n", "most", type=click.IntRange(1), default=20, show_default=True, help="Rows to show.")
def data(
    recipe: Path,
    root: str | None,
    overrides: Sequence[str],
    events: bool,
    row: str | None,
    rejected: str | None,
    near: str | None,
    least: float,
    most: int,
) -> int:
    with opened_run(recipe, root, overrides, events) as opened:
        if row is not None:
            _say_lineage(opened, row)
        elif rejected is not None:
            _say_rejected(opened, rejected, most)
        elif near is not None:
            _say_near(opened, near, least, most)
        else:
            _say_overview(opened, most)
    return 0


def _say_overview(run: Run, most: int) -> None:
    from ..pipeline.overview import finished, overview, some_rows

    for stage, artifact in finished(run).items():
        seen = overview(run, stage, artifact)
        run.reporter.say(f"{stage}: {seen.counts['accepted']} of {seen.counts['requested']} rows, in {seen.path}")
        for name, counted in seen.by.items():
            shown = ", ".join(f"{value} {rows}" for value, rows in islice(counted.items(), _SHOWN))
            more = f", and {len(counted) - _SHOWN} others" if len(counted) > _SHOWN else ""
            run.reporter.say(f"  {name}: {shown}{more}")
        for reason, (rows, evidence) in sorted(seen.rejected.items()):
            run.reporter.say(f"  rejected, {reason}: {rows}, such as: {_short(evidence)}")
        run.reporter.event("data", **asdict(seen))
    for row in some_rows(run, most):
        run.reporter.say(f"{row.id}  {row.side:<11} {_short(row.output or '', 24):<12} {_short(row.input)}")
        run.reporter.event("row", id=row.id, side=row.side, origin=row.origin, input=row.input, output=row.output)


def _say_lineage(run: Run, prefix: str) -> None:
    from ..pipeline.lineage import lineage

    for step in lineage(run, prefix):
        run.reporter.say(f"{step.stage:<14} {_short(step.what, 400)}")
        run.reporter.event("lineage", **asdict(step))


def _say_rejected(run: Run, reason: str, most: int) -> None:
    from ..pipeline.overview import rejects

    for number, row in enumerate(rejects(run, reason)):
        if number < most:
            run.reporter.say(f"{row['stage']:<9} {row['id']}  {_short(row['evidence'], 400)}")
            run.reporter.event("rejected", **row)
    if number >= most:
        run.reporter.say(f"{number + 1 - most} more; -n {number + 1} shows all")


def _say_near(run: Run, text: str, least: float, most: int) -> None:
    from ..pipeline.overview import near

    found = near(run, text, least)
    for row in found[:most]:
        became = f"  ({row.became})" if row.became else ""
        run.reporter.say(f"{row.similarity:.2f}  {row.id}  {row.side:<11} {_short(row.input)}{became}")
        run.reporter.event("near", **asdict(row))
    run.reporter.say(f"{len(found)} rows at {least:g} or above; curate calls {_near(run)} a copy")


def _near(run: Run) -> str:
    threshold = run.recipe.curate.duplicates.near
    return "nothing but the same text" if threshold is None else f"{threshold:g} or above"


def _short(text: str, most: int = 120) -> str:
    """For one line on screen, where no text may move the cursor or turn the line round; events have it as it is."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def root_command(group: click.Group, name: str, help_text: str, *, example: str) -> Callable[..., click.Command]:
    """A command on a root, whatever recipes ran on it."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        for decorate in (
            click.option("--json", "events", is_flag=True, help="One JSON event a line on stdout."),
            click.option("--root", help="The root; by default ./runs."),
        ):
            function = decorate(function)
        return group.command(name, help=help_text, epilog=f"Example: {example}")(function)

    return wrap


@contextmanager
def opened_root(root: str | None, events: bool, *, alone: bool) -> Iterator[tuple[Storage, Reporter]]:
    """A root that is there.

    Args:
        alone: hold the lock of every job on it meanwhile.

    Raises:
        BadInput: there is no such folder.
        Locked: a run is under way.
    """
    from ..data.lock import Lock
    from ..pipeline.notes import jobs
    from ..pipeline.progress import Reporter

    chosen = root_or(root, Path("runs"))
    if "://" not in chosen and not (place := Path(chosen).expanduser().resolve()).is_dir():
        raise BadInput(f"{place}: no such root; give the one that runs named in their first line, with --root")
    reporter = Reporter(events=events)
    storage = told_storage(chosen, reporter)
    with ExitStack() as held:
        for job in jobs(storage) if alone else ():
            held.enter_context(Lock(storage, f"{job}/lock.json"))
        yield storage, reporter


@cli.group("ledger", invoke_without_command=True, epilog="Example: understudy ledger --root runs")
@click.option("--root", help="The root; by default ./runs.")
@click.option("--json", "events", is_flag=True, help="One JSON event a line on stdout.")
@click.pass_context
def ledger_group(context: click.Context, root: str | None, events: bool) -> None:
    """Count what was asked and paid for, by teacher, run and month."""
    if context.invoked_subcommand is not None:
        context.default_map = {context.invoked_subcommand: {"root": root, "events": events}}
        return
    from ..data.ledger import Ledger
    from ..pipeline.accounts import books

    with opened_root(root, events, alone=False) as (storage, reporter), closing(Ledger(storage)) as ledger:
        with reporter.track("ledger", len(ledger), "records") as tracker:
            found = books(ledger, tracker.advance)
        for account in found.accounts:
            reporter.say(account.line())
            reporter.event("account", **asdict(account))
        reporter.say(found.line())
        reporter.event("ledger", **{name: value for name, value in asdict(found).items() if name != "accounts"})


@root_command(
    ledger_group,
    "forget",
    "Erase a text, such as a person's name, from the ledger and from all that was made of it. Without --yes, only say "
    "where it stands. What was paid stays counted.",
    example="understudy ledger forget --match 'jo@example.com'",
)
@click.option("--match", required=True, help="The text; upper and lower case alike.")
@click.option("--regex", is_flag=True, help="It is a regular expression.")
@click.option("--yes", is_flag=True, help="Erase it.")
def forget(root: str | None, events: bool, match: str, regex: bool, yes: bool) -> int:
    from ..data.forgetting import find
    from ..data.forgetting import forget as erase
    from ..data.ledger import Ledger
    from ..pipeline.inputs import inputs_with

    matches = _matcher(match, regex)
    with opened_root(root, events, alone=yes) as (storage, reporter), closing(Ledger(storage)) as ledger:
        if yes:
            ledger.check_idle()
        with reporter.track("forget", None, "answers and files") as tracker:
            places = find(storage, ledger, matches, tracker.advance)
        inputs = inputs_with(storage, matches)
        reporter.say(f"ledger: {places.records} answers")
        for folder, why in sorted(places.stages.items()):
            reporter.say(f"{folder}: {why}")
        for file in places.files:
            reporter.say(file)
        for file in inputs.holding:
            reporter.say(f"{file}: your own input, not changed")
        for line in inputs.unread:
            reporter.say(f"not looked through: {line}")
        if yes:
            erase(storage, ledger, matches, places)
        reporter.event("forget", **asdict(places), inputs=asdict(inputs), erased=yes)
        reporter.say(_next(places, bool(inputs.holding), yes))
    return 0


def _matcher(match: str, regex: bool) -> Callable[[str], bool]:
    """Whether a text holds what is looked for, in whichever of two ways Unicode spells an accent."""
    if not match.strip():
        raise BadInput("--match: is empty, and so in every text; give a name or an address")
    if not regex:
        folded = normalize("NFC", match).casefold()
        return lambda text: folded in normalize("NFC", text).casefold()
    try:
        pattern = re.compile(normalize("NFC", match), re.IGNORECASE)
    except re.error as error:
        raise BadInput(f"--match '{match}': not a regular expression: {error}; mend it") from None
    if pattern.search(""):
        raise BadInput(f"--match '{match}': fits the empty text, and so every text; make it say more")
    return lambda text: pattern.search(normalize("NFC", text)) is not None


def _next(places: Places, inputs: bool, erased: bool) -> str:
    """What the user has to do now."""
    students = sum(folder.startswith(("stages/train-", "stages/curve-")) for folder in places.stages)
    again = f"; {students} folders of students learnt from it and are trained again by the next run" if students else ""
    own = "; change your own inputs, or the next run asks about it again" if inputs else ""
    if not places:
        return f"it stands nowhere under this root{own}"
    if not erased:
        return f"nothing is erased: --yes does it{again}{own}"
    return f"erased{again}{own}; what is published is not touched; run again, and stages are made anew"


@root_command(
    cli,
    "gc",
    "List what no job's last run needs: stages of recipes as they were, half-written files. --yes removes it; no "
    "answer in the ledger is ever removed.",
    example="understudy gc --root runs --yes",
)
@click.option("--yes", is_flag=True, help="Remove it.")
def gc(root: str | None, events: bool, yes: bool) -> int:
    from ..pipeline.garbage import leftovers

    with opened_root(root, events, alone=yes) as (storage, reporter):
        found = leftovers(storage)
        for left in found:
            reporter.say(f"{left.path}: {left.bytes:,} bytes, {left.days:.0f} days old; {left.why}")
            if yes:
                storage.delete(left.path)
            reporter.event("leftover", **asdict(left), removed=yes)
        total = sum(left.bytes for left in found)
        reporter.say(f"{len(found)} leftovers, {total:,} bytes" + (" removed" if yes else "; --yes removes them"))
    return 0
