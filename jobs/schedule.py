"""`schedule`: what a scheduler needs to run a recipe at its times, and how to hand it over."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.errors import BadInput
from .command import cli, project

if TYPE_CHECKING:
    from ..pipeline.recipe import LoadedRecipe
    from .cron import Cron
    from .manifests import Workload

_CRONTAB = """\
# {name}: a run that is still going is not joined by another, which ends with code 7. What failed is tried again at the
# next time and goes on where it stopped.
{environment}{cron} {command} >>{log} 2>&1
"""

_SERVICE = """\
[Unit]
Description=Understudy: {name}
StartLimitIntervalSec=1d
StartLimitBurst=4

[Service]
Type=oneshot
ExecStart={command}
EnvironmentFile=-%h/.config/understudy/{name}.env
# A run goes on where it stopped; a bad recipe, a reached budget, a verdict and too little data stay what they are.
Restart=on-failure
RestartSec=10min
RestartPreventExitStatus={final}
SuccessExitStatus=143
"""

_TIMER = """\
[Unit]
Description=Understudy: {name}

[Timer]
{times}
# A time at which the machine was off is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class Handover:
    """Files for a scheduler, and what to do with them."""

    files: Mapping[str, str]
    """Text by name."""
    steps: Sequence[str]


@cli.command(epilog="Example: understudy schedule jobs/tickets/recipe.yaml --cron '0 3 * * *' --for systemd")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--cron", "line", help="When: minute, hour, day, month, weekday. Without it, kuberay runs it once.")
@click.option("--for", "kind", type=click.Choice(["kuberay", "kubernetes", "crontab", "systemd"]), required=True)
@click.option("--time-zone", "zone", help="Of the cron line, such as Europe/Berlin; by default Etc/UTC.")
@click.option("--root", envvar="UNDERSTUDY_ROOT", help="Where ledger, stages and reports live: a path or URL.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one recipe field.")
@click.option("--image", help="The image that holds Understudy and the recipe, for Kubernetes.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers, on Kubernetes.")
@click.option("--to", type=click.Path(path_type=Path), help="Write here: a file, for systemd a folder.")
def schedule(
    recipe: Path,
    line: str | None,
    kind: str,
    zone: str | None,
    root: str | None,
    overrides: Sequence[str],
    image: str | None,
    workers: int,
    to: Path | None,
) -> None:
    """Write what a scheduler needs to run a recipe again and again, and say how to hand it over."""
    from ..pipeline.recipe import load_recipe
    from .cron import Cron

    loaded = load_recipe(recipe, overrides)
    if line is None and kind != "kuberay":
        raise BadInput(f"--for {kind}: no --cron; add one, such as --cron '0 3 * * *'")
    cron = Cron(line, zone or (None if kind == "crontab" else "Etc/UTC")) if line is not None else None
    words = [word for override in overrides for word in ("--set", override)]
    if kind in ("kuberay", "kubernetes"):
        load = _workload(loaded, kind, root, image, words, workers)
        made = _for_kubernetes(load, kind, cron)
    else:
        assert cron is not None
        command = _command(loaded, root, words)
        made = _for_crontab(loaded, command, cron) if kind == "crontab" else _for_systemd(loaded, command, cron)
    _hand_over(made, to)
    for time in cron.next_times(3) if cron else ():
        click.echo(f"due: {time:%a %Y-%m-%d %H:%M %Z}".rstrip(), err=True)


def _command(loaded: LoadedRecipe, root: str | None, words: Sequence[str]) -> list[str]:
    """The run on this machine, by whole paths: a scheduler starts it anywhere."""
    script = Path(sys.executable).with_name("understudy")
    run = [str(script)] if script.is_file() else [sys.executable, "-m", "understudy.jobs"]
    place = root if root is None or "://" in root else os.path.abspath(root)
    return [*run, "run", str(loaded.path), *(["--root", place] if place else []), *words]


def _for_crontab(loaded: LoadedRecipe, command: Sequence[str], cron: Cron) -> Handover:
    from ..pipeline.inputs import variables

    if cron.zone is not None:
        raise BadInput("--time-zone: cron keeps the machine's own; leave it out, or use --for systemd")
    needed = variables(loaded)
    text = _CRONTAB.format(
        name=loaded.recipe.name,
        environment="".join(f"# {variable}=...   set it here: cron's environment is empty\n" for variable in needed),
        cron=cron.line,
        command=shlex.join(command).replace("%", r"\%"),  # a bare one would end the line
        log=shlex.quote(str(loaded.folder / "cron.log")).replace("%", r"\%"),
    )
    return Handover({"crontab": text}, ["`crontab -e` takes these lines"])


def _for_systemd(loaded: LoadedRecipe, command: Sequence[str], cron: Cron) -> Handover:
    from ..pipeline.inputs import variables
    from .manifests import FINAL

    name = loaded.recipe.name
    service = _SERVICE.format(name=name, command=" ".join(map(_word, command)), final=" ".join(map(str, FINAL)))
    timer = _TIMER.format(name=name, times="\n".join(f"OnCalendar={time}" for time in cron.on_calendar()))
    unit = f"understudy-{name}"
    steps = [f"~/.config/understudy/{name}.env has to hold {variable}=..." for variable in variables(loaded)]
    steps += [
        f"copy both to ~/.config/systemd/user/, then `systemctl --user enable --now {unit}.timer`",
        "`loginctl enable-linger` lets it run while you are not logged in",
    ]
    return Handover({f"{unit}.service": service, f"{unit}.timer": timer}, steps)


def _word(word: str) -> str:
    """As systemd reads a word of a command."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _workload(
    loaded: LoadedRecipe, kind: str, root: str | None, image: str | None, words: Sequence[str], workers: int
) -> Workload:
    from ..pipeline.inputs import variables
    from .manifests import Workload

    for flag, value, such in (("--image", image, "registry/tickets:1.0"), ("--root", root, "s3://bucket/runs")):
        if not value:
            raise BadInput(f"--for {kind}: no {flag}; add one that all pods see, such as {such}")
    assert image is not None
    assert root is not None
    engines: list[Mapping[str, Any]] = [one.engine for one in loaded.recipe.teachers.values() if one.kind == "vllm"]
    return Workload(
        recipe=loaded.recipe.name,
        path=loaded.path.relative_to(project(loaded.folder)).as_posix(),
        root=root,
        image=image,
        arguments=words,
        variables=variables(loaded),
        workers=workers,
        gpus=max((int(engine.get("tensor_parallel_size", 1)) for engine in engines), default=0),
    )


def _for_kubernetes(load: Workload, kind: str, cron: Cron | None) -> Handover:
    from .manifests import cron_job, ray_cron_job, ray_job, to_yaml

    if cron is not None and cron.knows_seven:
        raise BadInput(f"--cron '{cron.line}': day-of-week 7 is unknown to Kubernetes; write 0 for Sunday")
    steps = [f"{load.image} has to hold the recipe as /understudy/{load.path}; jobs/kubernetes/Dockerfile makes one"]
    if load.variables:
        values = " ".join(f'--from-literal={variable}="${variable}"' for variable in load.variables)
        steps.append(f"`kubectl create secret generic {load.name}-env {values}`")
    if "://" not in load.root:
        steps.append(f"add a volume that all pods share, mounted at {load.root}")
    if cron is None:
        made, file = [ray_job(load, retries=True)], "rayjob.yaml"
    elif kind == "kuberay":
        made, file = ray_cron_job(load, cron.line, cron.zone or ""), "raycronjob.yaml"
        steps.append(
            "RayCronJob is alpha: KubeRay 1.7 has it behind a gate, `--set "
            "'featureGates[0].name=RayCronJob,featureGates[0].enabled=true'` of its Helm chart"
        )
    else:
        made, file = cron_job(load, cron.line, cron.zone or ""), "cronjob.yaml"
    return Handover({file: to_yaml(made)}, [*steps, f"`kubectl apply -f {file}`"])


def _hand_over(made: Handover, to: Path | None) -> None:
    """Write the files, or print them where no place is given; then say what to do."""
    if to is None:
        for name, text in made.files.items():
            click.echo(f"# {name}\n{text}" if len(made.files) > 1 else text, nl=False)
    else:
        places = [to] if len(made.files) == 1 else [to / name for name in made.files]
        for place, text in zip(places, made.files.values(), strict=True):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
            except OSError as error:
                raise BadInput(f"--to {place}: cannot be written: {error.strerror}; choose another place") from None
            click.echo(f"wrote {place}", err=True)
    for step in made.steps:
        click.echo(step, err=True)
