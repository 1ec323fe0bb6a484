"""What every command on a recipe shares: its flags, and the run that it opens on a root."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..data.storage import Storage
    from ..pipeline.context import Run
    from ..pipeline.executor import Executor
    from ..pipeline.progress import Reporter


class _Commands(click.Group):
    """Commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would answer it with an empty line
            raise Stopped from None


class Stopped(Exception):
    """A signal asked us to stop."""


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with `understudy demo`, or with `understudy init tickets --from tickets.csv`.",
)
@click.version_option(package_name="understudy")
def cli() -> None:
    """Distil a large teacher model into a compact student, and prove how good the student is."""


def recipe_command(help_text: str, *, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that works on a recipe, with the flags that all of them take."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        for decorate in reversed(
            [
                click.argument("recipe", type=click.Path(path_type=Path)),
                click.option("--root", help="Where ledger, stages and reports live: a folder, or s3://bucket/prefix."),
                click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one recipe field."),
                click.option("--json", "events", is_flag=True, help="One JSON event a line on stdout."),
            ]
        ):
            function = decorate(function)
        return cli.command(help=help_text, epilog=f"Example: {example}")(function)

    return wrap


@contextmanager
def opened_run(
    recipe: Path, root: str | None, overrides: Sequence[str], events: bool, executor: Executor | None = None
) -> Iterator[Run]:
    """A run on a root; the first line printed says which root it is."""
    from ..pipeline.context import Run
    from ..pipeline.progress import Reporter
    from ..pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    reporter = Reporter(events=events)
    run = Run(loaded, told_storage(root_or(root, project(loaded.folder) / "runs"), reporter), reporter, executor)
    try:
        yield run
    finally:
        run.close()


def told_storage(root: str, reporter: Reporter) -> Storage:
    """The storage of a root, once it is said which root that is."""
    from ..data.storage import open_storage

    place = root.rstrip("/") if "://" in root else str(Path(root).expanduser().resolve())
    reporter.say(f"root: {place}")
    return open_storage(place)


def root_or(root: str | None, default: Path) -> str:
    """The root that the command line names, else the environment, else a folder."""
    return root or os.environ.get("UNDERSTUDY_ROOT") or str(default)


def project(folder: Path) -> Path:
    """The recipe's project: the folder that holds `jobs/`, where the recipe stands in `jobs/<name>/`."""
    return folder.parent.parent if folder.parent.name == "jobs" else folder
