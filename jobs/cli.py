"""The command line. Nothing heavy is imported before a command needs it, so help answers at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.artifact import stage_path
from ..data.errors import BadInput, UnderstudyError
from .command import Stopped, cli, opened_run, recipe_command, root_or

if TYPE_CHECKING:
    from ..pipeline.context import Run
    from ..pipeline.executor import Executor

HERE = Path(__file__).parent
_INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def _run(run: Run, until: str | None, gate: bool) -> int:
    """Run to a stage, say what came of it, and return the exit code."""
    from ..pipeline.run import artifacts, run_stages

    publishes = until in (None, "publish") and run.recipe.publish is not None
    made = run_stages(run, ("evaluate" if run.recipe.students else "curate") if publishes else until)
    code = _say_what_came(run, made)
    if publishes:  # last: what cannot be published is proved all the same
        if until == "publish":  # asked for by name: whether it is still there is looked up
            artifacts(run)["publish"][1].reopen()
        run_stages(run, "publish")
    return code if gate else 0


def _say_what_came(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> int:
    """The verdict where there is one, else where the last stage's rows are; returns the exit code."""
    if "evaluate" not in manifests:
        last = list(manifests)[-1]
        path = stage_path(last, manifests[last]["fingerprint"])
        run.reporter.say(f"{last}: finished, in {run.storage.place(path)}")
        return 0
    from ..pipeline.proof import EXIT_CODES, learning_lines, publish_report, score_lines, verdict_lines

    report = publish_report(run, manifests)
    for line in ("", *score_lines(report), "", *verdict_lines(report), *learning_lines(report)):
        run.reporter.say(line)
    run.reporter.say(f"report: {run.storage.place(run.recipe.name)}/report.html")
    run.reporter.event("verdict", **report["verdict"], margin=report["margin"])
    return EXIT_CODES[report["verdict"]["decision"]]


def _asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of commands that ask, train and judge: where that is done, and what a verdict is worth."""
    for decorate in reversed(
        [
            click.option("--on", type=click.Choice(["local", "ray"]), default="local", help="Where to ask and train."),
            click.option("--address", help="Ray cluster, such as ray-head:6379; by default one on this machine."),
            click.option("--workers", type=click.IntRange(1), help="Ray actors; by default one a node or GPU."),
            click.option("--fsdp", is_flag=True, help="Part a student between the workers that train it."),
            click.option("--no-gate", is_flag=True, help="Exit 0 whatever the verdict."),
        ]
    ):
        function = decorate(function)
    return function


def _executor(on: str, address: str | None, workers: int | None, fsdp: bool = False) -> Executor | None:
    """Who does the asking and the training; None for this process."""
    if on == "ray":
        from .cluster import RayExecutor

        return RayExecutor(address, workers, fsdp)
    if flags := [name for name, given in (("address", address), ("workers", workers), ("fsdp", fsdp)) if given]:
        raise BadInput(f"--{flags[0]} is for Ray; add --on ray")
    return None


@recipe_command(
    "Run every stage the recipe has a section for, going on where an earlier run stopped.",
    example="understudy run jobs/tickets/recipe.yaml --set train.epochs=4",
)
@_asking
@click.option("--metrics", metavar="PORT|FILE", help="Tell Prometheus: serve on a port, or write a .prom file.")
def run(
    recipe: Path,
    root: str | None,
    overrides: Sequence[str],
    events: bool,
    no_gate: bool,
    metrics: str | None,
    **where: Any,
) -> int:
    with opened_run(recipe, root, overrides, events, _executor(**where)) as opened, ExitStack() as told:
        if metrics is not None:
            from .metrics import measured

            told.enter_context(measured(opened, metrics))
        if sys.stderr.isatty():
            _say_plan(opened)
        return _run(opened, None, not no_gate)


def _say_plan(opened: Run, pilot: int = 0) -> None:
    from ..pipeline.plan import plan as make_plan

    made = make_plan(opened, pilot)
    for line in made.lines():
        opened.reporter.say(line)
    opened.reporter.event("plan", **made.as_json())


@recipe_command(
    "Say what a run would do and cost; without --pilot asks nobody and spends nothing.",
    example="understudy plan jobs/tickets/recipe.yaml --pilot 50",
)
@click.option("--pilot", type=click.IntRange(0), default=0, help="Ask for so many rows, and reckon from them.")
def plan(recipe: Path, root: str | None, overrides: Sequence[str], events: bool, pilot: int) -> int:
    with opened_run(recipe, root, overrides, events) as opened:
        _say_plan(opened, pilot)
    return 0


@recipe_command(
    "Show real prompts and real answers for the first rows; what is asked is paid for once.",
    example="understudy preview jobs/tickets/recipe.yaml -n 5",
)
@click.option("-n", "rows", type=click.IntRange(1), default=5, show_default=True, help="Rows to show.")
def preview(recipe: Path, root: str | None, overrides: Sequence[str], events: bool, rows: int) -> int:
    from dataclasses import asdict

    from ..pipeline.preview import preview as shown

    with opened_run(recipe, root, overrides, events) as opened:
        for exchange in shown(opened, rows):
            for line in exchange.lines():
                opened.reporter.say(line)
            opened.reporter.event("preview", **asdict(exchange))
        opened.reporter.say(opened.spend.line(0))
        opened.tell(opened.take_notes())
    return 0


def _stage_command(name: str, help_text: str) -> None:
    @recipe_command(help_text, example=f"understudy {name} jobs/tickets/recipe.yaml")
    @_asking
    def stage(
        recipe: Path, root: str | None, overrides: Sequence[str], events: bool, no_gate: bool, **where: Any
    ) -> int:
        with opened_run(recipe, root, overrides, events, _executor(**where)) as opened:
            return _run(opened, name, not no_gate)

    stage.name = name
    cli.add_command(stage, name)
    cli.commands.pop("stage", None)


_stage_command("generate", "Have a teacher write inputs from the seeds.")
_stage_command("label", "Have a teacher answer every input.")
_stage_command("curate", "Choose the rows that a student may learn from.")
_stage_command("train", "Train the students.")
_stage_command("evaluate", "Judge the students against the teacher.")


@recipe_command(
    "Put the dataset, and a student that passed, on a hub or under a URL, as the recipe's `publish` section says.",
    example="understudy publish jobs/tickets/recipe.yaml --dry-run",
)
@_asking
@click.option("--dry-run", is_flag=True, help="Say what would be sent, write its cards, and send nothing.")
def publish(
    recipe: Path,
    root: str | None,
    overrides: Sequence[str],
    events: bool,
    no_gate: bool,
    dry_run: bool,
    **where: Any,
) -> int:
    with opened_run(recipe, root, overrides, events, _executor(**where)) as opened:
        if not dry_run:
            return _run(opened, "publish", not no_gate)
        from ..pipeline.publish import rehearse
        from ..pipeline.run import artifacts

        placed = artifacts(opened)
        if "publish" not in placed:
            raise BadInput(f"{recipe}: no `publish:` section; add one")
        made = {key: placed[key][1] for key in placed["publish"][0].inputs}
        if undone := [key for key, artifact in made.items() if artifact.manifest() is None]:
            raise BadInput(f"{recipe}: {undone[0]} is not done yet; `understudy run {recipe}` does it")
        rehearse(opened, made)
    return 0


@recipe_command(
    "Look for what stands in a run's way: inputs, teachers, packages, disk, and what students need. Costs nothing.",
    example="understudy doctor jobs/tickets/recipe.yaml",
)
def doctor(recipe: Path, root: str | None, overrides: Sequence[str], events: bool) -> int:
    from dataclasses import asdict

    from ..pipeline import doctor as looking

    stopped = False
    with opened_run(recipe, root, overrides, events) as opened:
        for finding in looking.doctor(opened):
            stopped = stopped or finding.state == "fix"
            opened.reporter.say(finding.line())
            opened.reporter.event("doctor", **asdict(finding))
    return 2 if stopped else 0


@recipe_command("Show which stages are done and what they hold.", example="understudy status jobs/tickets/recipe.yaml")
def status(recipe: Path, root: str | None, overrides: Sequence[str], events: bool) -> int:
    from ..pipeline.run import artifacts

    with opened_run(recipe, root, overrides, events) as opened:
        for key, (_, artifact) in artifacts(opened).items():
            manifest = artifact.manifest()
            state = "done" if manifest else ("interrupted" if artifact.folder.exists() else "not started")
            rows = f", {manifest['rows']['accepted']} rows accepted" if manifest and manifest["rows"] else ""
            opened.reporter.say(f"{key:<16} {state:<12} {artifact.path}{rows}")
            opened.reporter.event(
                "status", stage=key, state=state, path=artifact.path, rows=manifest and manifest["rows"]
            )
    return 0


@recipe_command(
    "Print the verdict and where the report is.", example="understudy report jobs/tickets/recipe.yaml --open"
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def report(recipe: Path, root: str | None, overrides: Sequence[str], events: bool, show: bool) -> int:
    from ..pipeline.proof import learning_lines, publish_report, score_lines, verdict_lines
    from ..pipeline.run import artifacts

    with opened_run(recipe, root, overrides, events) as opened:
        manifests = {key: artifact.manifest() for key, (_, artifact) in artifacts(opened).items()}
        if manifests.get("evaluate") is None:
            raise BadInput(f"{recipe}: nothing is judged yet; `understudy run {recipe}` does it")
        made = publish_report(opened, {key: manifest for key, manifest in manifests.items() if manifest})
        for line in (*score_lines(made), "", *verdict_lines(made), *learning_lines(made)):
            opened.reporter.say(line)
        page = opened.storage.fetch(f"{opened.recipe.name}/report.html")
        opened.reporter.say(f"report: {page}")
        opened.reporter.event("report", path=str(page), **made["verdict"])
        if show:
            click.launch(str(page))
    return 0


@recipe_command(
    "Write a sheet of inputs to label by hand, which becomes the gold test; one that is there is kept and added to.",
    example="understudy sample jobs/tickets/recipe.yaml --rows 300",
)
@click.option("--rows", type=click.IntRange(1), default=300, show_default=True, help="Rows on the sheet.")
@click.option("--to", type=click.Path(path_type=Path), help="The sheet; by default sample.csv beside the recipe.")
def sample(recipe: Path, root: str | None, overrides: Sequence[str], events: bool, rows: int, to: Path | None) -> int:
    from dataclasses import asdict

    from ..pipeline.sheet import write_sheet

    with opened_run(recipe, root, overrides, events) as opened:
        sheet = write_sheet(opened, to or opened.folder / "sample.csv", rows)
        for line in sheet.lines(opened):
            opened.reporter.say(line)
        opened.reporter.event("sample", **{**asdict(sheet), "path": str(sheet.path)})
    return 0


@recipe_command(
    "Answer with the trained student: one text, or one a line from stdin with `-`.",
    example='understudy answer jobs/tickets/recipe.yaml "Where is my parcel?"',
)
@click.argument("text", default="-")
@click.option("--student", help="Which student; by default the one that is judged.")
def answer(
    recipe: Path, root: str | None, overrides: Sequence[str], events: bool, text: str, student: str | None
) -> int:
    from ..pipeline.use import answers

    with opened_run(recipe, root, overrides, events) as opened:
        piped = (line.decode(errors="replace").rstrip("\r\n") for line in sys.stdin.buffer)
        lines = piped if text == "-" else [text]
        for given, said, confidence in answers(opened, student, lines):
            sure = f"\t{confidence:.3f}" if confidence is not None else ""
            if events:
                opened.reporter.event("answer", input=given, output=said, confidence=confidence)
            else:
                click.echo(f"{said}{sure}")
    return 0


@recipe_command(
    "Hand on a student: its weights (`safetensors`), or one file that runs on a CPU without torch (`onnx`; `int8`, a "
    "quarter of the size). It is run again on the test first, and the exit code is 4 where it answers worse than the "
    "student did. `lm-eval` is the test itself, as a task for lm-evaluation-harness.",
    example="understudy export jobs/tickets/recipe.yaml --format int8 --to tickets-int8",
)
@click.option("--format", "form", required=True, metavar="safetensors|onnx|int8|lm-eval", help="What to write.")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@click.option("--student", help="Which student; by default the one that is judged.")
def export(
    recipe: Path, root: str | None, overrides: Sequence[str], events: bool, form: str, to: Path, student: str | None
) -> int:
    from ..pipeline.export import export as write

    with opened_run(recipe, root, overrides, events) as opened:
        made = write(opened, form, to, student)
        for line in ("", *made.proof.lines()) if made.proof else ():
            opened.reporter.say(line)
        named = ", ".join(path.name for path in made.files)
        opened.reporter.say(f"wrote {named} in {to}; its README.md says how to run it")
        proof = made.proof.as_json() if made.proof else None
        opened.reporter.event("export", format=form, files=[str(path) for path in made.files], proof=proof)
        if made.proof is None:
            return 0
        from ..pipeline.proof import EXIT_CODES

        return EXIT_CODES[made.proof.verdict.decision]


from . import look, schedule, submit  # noqa: E402, F401  their commands follow those above, as a newcomer meets them


@cli.command(epilog="Example: understudy init tickets --from tickets.csv")
@click.argument("name")
@click.option("--from", "source", type=click.Path(path_type=Path), help="A file of unlabelled inputs to start from.")
def init(name: str, source: Path | None) -> int:
    """Write jobs/NAME/ with a commented recipe, seeds and prompts; asks nothing."""
    from .scaffold import write_job

    folder = write_job(Path.cwd(), name, source)
    click.echo(f"wrote {folder}: edit recipe.yaml, then `understudy run {folder.relative_to(Path.cwd())}/recipe.yaml`")
    return 0


@cli.command(epilog="Example: understudy demo")
@click.option("--root", help="Where to put the run; by default ./runs.")
@click.option("--json", "events", is_flag=True, help="One JSON event a line on stdout.")
def demo(root: str | None, events: bool) -> int:
    """Run the whole path on the teacher that ships in the package: no key, no download, no GPU, about 5 minutes."""
    from .story import tell

    with opened_run(HERE / "support-triage" / "recipe.yaml", root_or(root, Path("runs")), (), events) as opened:
        _run(opened, None, gate=False)
        tell(opened)
    return 0


def _one_line(error: click.ClickException) -> str:
    """What was wrong with the command line, and where to look it up."""
    said = " ".join(error.format_message().split()).rstrip(".")
    said = f"understudy: {said[:1].lower()}{said[1:]}"
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "understudy"
    return said if said.endswith("?") else f"{said}; `{command} --help` shows how it is used"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script: errors as one line, exit codes as the contract has them."""
    received = signal.SIGINT

    def stop(number: int, _frame: object) -> None:
        nonlocal received
        received = signal.Signals(number)
        signal.raise_signal(signal.SIGINT)  # an event loop knows how to end on this one, and on no other

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started to ignore it
    signal.signal(signal.SIGTERM, stop)
    try:
        code = cli.main(arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        print(_one_line(error), file=sys.stderr)
        code = 2
    except (Stopped, click.Abort, KeyboardInterrupt) as stopped:
        print(f"understudy: {str(stopped) or 'stopped; run the same command again to go on'}", file=sys.stderr)
        code = _INTERRUPTED[received]
    except UnderstudyError as error:
        print(f"understudy: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
