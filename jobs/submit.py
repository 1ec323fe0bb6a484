"""`submit`: the same run as a job on a Ray cluster, followed from here."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.errors import BadInput
from .command import Stopped, cli

if TYPE_CHECKING:
    from ..pipeline.progress import Reporter
    from ..pipeline.recipe import LoadedRecipe
    from .server import JobServer


@dataclass(frozen=True)
class Order:
    """What is to be run, and how."""

    loaded: LoadedRecipe
    root: str
    on: str
    workers: int | None
    overrides: Sequence[str]
    installed: bool
    """The cluster has this code."""
    variables: Mapping[str, str]
    """Passed on to the run; values are in no line and no id."""
    fsdp: bool = False

    def entrypoint(self, recipe: str) -> str:
        """The command line of the run, for the shell of the head node."""
        words = ["python", "-m", "understudy.jobs", "run", recipe, "--root", self.root, "--json", "--on", self.on]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--workers", str(self.workers)] if self.workers else []
        words += ["--fsdp"] if self.fsdp else []
        words += ["--address", "auto"] if self.on == "ray" else []  # RAY_ADDRESS, which Ray sets for a job
        run = f"exec {shlex.join(words)}"
        return f"{_refusal_of_another_version()}; {run}" if self.installed else run


def _refusal_of_another_version() -> str:
    """Shell that ends with 2 where the cluster has no or another Understudy."""
    ours = version("understudy")
    said = f"understudy: the cluster has no understudy {ours}, which submits; give it an image with that, or submit "
    said += "without --installed"
    asked = '"$(python -m understudy.jobs --version 2>&1)"'
    return f"case {asked} in *' version {ours}') ;; *) echo {shlex.quote(said)} >&2; exit 2;; esac"


@cli.command(
    epilog="Example: understudy submit jobs/tickets/recipe.yaml --address http://head:8265 --root s3://bucket/runs"
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--address", envvar="RAY_API_SERVER_ADDRESS", required=True, help="The cluster's dashboard.")
@click.option("--root", envvar="UNDERSTUDY_ROOT", help="Where all nodes see ledger, stages and reports: a path or URL.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one recipe field.")
@click.option("--on", type=click.Choice(["ray", "local"]), default="ray", help="Work on all nodes, or on the head.")
@click.option("--workers", type=click.IntRange(1), help="Ray actors; by default one a node or GPU.")
@click.option("--fsdp", is_flag=True, help="Part a student between the workers that train it.")
@click.option("--installed", is_flag=True, help="The cluster's image has this version: send no code.")
@click.option("--env", "names", multiple=True, metavar="NAME", help="Pass a variable on; Ray's own logs have it too.")
@click.option("--id", "name", help="The job's id; by default made of the recipe and its files.")
@click.option("--detach", is_flag=True, help="Do not follow.")
@click.option("--status", is_flag=True, help="Say how the recipe's last job is, or the one with --id.")
@click.option("--stop", is_flag=True, help="Stop the recipe's last job, or the one with --id.")
@click.option("--json", "events", is_flag=True, help="One JSON event a line on stdout.")
def submit(
    recipe: Path,
    address: str,
    root: str | None,
    names: Sequence[str],
    name: str | None,
    detach: bool,
    status: bool,
    stop: bool,
    events: bool,
    **how: Any,
) -> int:
    """Run a recipe as a job on a Ray cluster; submitted again while it runs, follow it. Ends with the run's code."""
    from ..pipeline.progress import Reporter
    from ..pipeline.recipe import load_recipe
    from .follow import follow
    from .server import JobServer

    loaded = load_recipe(recipe, how["overrides"])
    reporter = Reporter(events=events)
    if status or stop:
        server = JobServer(address)
        return _look(server, _last_job(server, loaded, name), reporter, stop)
    order = Order(loaded, _shared(root, loaded), variables=_values(names), **how)
    _say_what_is_missing(order, reporter)
    server = JobServer(address)
    job, new = _sent(server, order, name)
    try:
        said = f"submitted to {server.address}" if new else f"runs already on {server.address}; following it"
        reporter.say(f"job {job}: {said}")
        reporter.event("job", id=job, state="submitted" if new else "running", address=server.address)
        if detach:
            reporter.say(f"job {job}: {_how_to(recipe, server, 'the same command follows it')}")
            return 0
        code = follow(server, job, reporter, events)
    except KeyboardInterrupt:
        raise Stopped(f"job {job} goes on: {_how_to(recipe, server, 'the same command follows it again')}") from None
    reporter.say(f"job {job}: ended with exit code {code}")
    reporter.event("job", id=job, state="ended", exit_code=code)
    return code


def _shared(root: str | None, loaded: LoadedRecipe) -> str:
    """A root that the nodes can be expected to see."""
    if root and ("://" in root or Path(root).is_absolute()):
        return root
    found = f"--root {root}: is relative to this folder" if root else f"{loaded.path}: no --root"
    raise BadInput(
        f"{found}, and a cluster cannot be expected to see a folder of this machine; give a path that all its nodes "
        "see, or a URL such as s3://bucket/prefix"
    )


def _values(names: Sequence[str]) -> dict[str, str]:
    """The variables that are passed on, which have to be set here."""
    for name in names:
        if not name.isidentifier():  # it may be the key itself, so it is not shown
            raise BadInput("--env: expected the name of a variable, such as OPENAI_API_KEY, and never its value")
        if not os.environ.get(name):
            raise BadInput(f"--env {name}: is not set in this environment; export it, or leave --env out")
    return {name: os.environ[name] for name in names}


def _say_what_is_missing(order: Order, reporter: Reporter) -> None:
    """Name what the nodes have to have beside what is sent."""
    from ..pipeline.inputs import absolute_paths, variables

    for variable in variables(order.loaded):
        if variable not in order.variables:
            reporter.say(f"{variable} has to be set on the cluster's nodes; --env {variable} passes it on")
    for place in absolute_paths(order.loaded):
        reporter.say(f"{place} has to be there on the cluster's nodes")


def _sent(server: JobServer, order: Order, name: str | None) -> tuple[str, bool]:
    """The id of the job that runs this order, and whether it is a new one or runs it already."""
    from ..data.fingerprint import fingerprint
    from ..pipeline.recipe import NAME
    from .shipment import pack_code, pack_recipe

    if name is not None and not NAME.fullmatch(name):
        raise BadInput(f"--id {name}: cannot name a job; use at most 100 letters, digits, '-', '_' and '.'")
    with tempfile.TemporaryDirectory() as scratch:
        parcel = pack_recipe(order.loaded, Path(scratch) / "recipe")
        content = fingerprint([parcel.content, order.loaded.overrides, order.root])
        name = name or f"{order.loaded.recipe.name}-{content[:12]}"
        sent: dict[str, Any] = {"working_dir": str(parcel.folder), "env_vars": dict(order.variables)}
        jobs = server.jobs()
        for attempt in count(1):
            job = name if attempt == 1 else f"{name}-{attempt}"
            if job in jobs and jobs[job].status.is_terminal():
                continue
            if job not in jobs:
                if not order.installed and "py_modules" not in sent:
                    sent["py_modules"] = [str(pack_code(Path(scratch) / "code"))]
                metadata = {"recipe": order.loaded.recipe.name, "root": order.root}
                if server.start(job, order.entrypoint(parcel.recipe), sent, metadata):
                    return job, True
            return job, False
    raise AssertionError("counts on for ever")


def _how_to(recipe: Path, server: JobServer, follow: str) -> str:
    stop = shlex.join(["understudy", "submit", str(recipe), "--address", server.address, "--stop"])
    return f"{follow}; `{stop}` stops it"


def _last_job(server: JobServer, loaded: LoadedRecipe, name: str | None) -> Any:
    jobs = server.jobs()
    if name is not None:
        if name not in jobs:
            known = ", ".join(list(jobs)[-5:]) or "none"
            raise BadInput(f"--id {name}: no such job on {server.address}; the last ones there: {known}")
        return jobs[name]
    recipe = loaded.recipe.name
    ours = [job for job in jobs.values() if (job.metadata or {}).get("recipe") == recipe]
    if not ours:
        raise BadInput(f"{server.address}: no job of {recipe} there; `understudy submit` without --status starts one")
    return ours[-1]


def _look(server: JobServer, job: Any, reporter: Reporter, stop: bool) -> int:
    """Say how a job is, once it has stopped if it has to."""
    if stop and server.stop(job.submission_id):
        job = server.job(job.submission_id)
    end = (job.end_time or time.time() * 1000) / 1000
    seconds = end - (job.start_time or 0) / 1000
    code = "" if job.driver_exit_code is None else f", exit code {job.driver_exit_code}"
    root = (job.metadata or {}).get("root", "")
    reporter.say(f"job {job.submission_id}: {job.status.value.lower()}, {seconds:.0f} s{code}, root {root}")
    reporter.event(
        "job",
        id=job.submission_id,
        state=job.status.value.lower(),
        seconds=round(seconds, 1),
        exit_code=job.driver_exit_code,
        root=root,
    )
    return 0
