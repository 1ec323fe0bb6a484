"""A student learns on a Ray cluster: Ray Train starts the workers, joins them, and starts them anew when one is lost.

What a worker does is what one process does (`students.crew`), so that the weights are the same on any number. It goes
on from the last whole checkpoint in the student's folder, which the trainer writes there, and Ray is told of: its own
copies of checkpoints would be a second set, and count only once its controller has seen them, so that a worker lost
within two seconds of one began anew (measured).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput, UnderstudyError, in_a_line
from ..data.storage import Storage, open_storage
from ..pipeline.context import Run
from ..pipeline.executor import Learning
from ..pipeline.progress import Reporter
from ..pipeline.recipe import LoadedRecipe
from ..students.config import FINISHED
from .cluster import cause_of

if TYPE_CHECKING:
    from ..students.sft import Show

LOSSES = 3
"""Times that workers are started anew in one training; then the command ends, and goes on when it is run again."""

PATIENCE = 6 * 3600.0
"""Seconds that workers wait for each other: the first alone reads the rows, and asks a larger model about them."""

_SETTINGS = {
    "TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0",  # each worker sees its own card alone
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # workers wait for it at each checkpoint
}
"""Of Ray Train, where the environment does not say otherwise."""

_ASIDE = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""Where a trainer's library would look for other workers."""


class Board:
    """An actor that runs a training, on which its first worker writes and which the driver reads.

    In a thread of the driver's Ray would still be busy when Ctrl-C has it shut down, and end in a segmentation fault.
    """

    def __init__(self) -> None:
        self._at = (0, 0, "")
        self._error: UnderstudyError | None = None

    def fit(self, trainer: Any) -> None:
        """Returns when all workers have ended."""
        trainer.fit()

    def show(self, step: int, steps: int, words: str) -> None:
        self._at = step, steps, words

    def fail(self, error: UnderstudyError) -> None:
        self._error = error

    def read(self) -> tuple[tuple[int, int, str], UnderstudyError | None]:
        """What was shown last, and why a worker gave up, if one did."""
        return self._at, self._error


@dataclass(frozen=True)
class _Lesson:
    """What travels to a worker."""

    loaded: LoadedRecipe
    root: str
    learning: Learning
    fsdp: bool
    board: Any


def learn_on_cluster(run: Run, learning: Learning, workers: int | None, fsdp: bool, show: Show) -> dict[str, Any]:
    """Learn on the cluster that Ray is connected to.

    Args:
        workers: by default one for each graphics card, or for each node with a CPU where there is none.

    Raises:
        BadInput: the cluster has too few CPUs for so many workers.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if (done := _said(run, learning)) is not None:
        return done
    wanted = room(ray.nodes(), workers)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board = (
        ray.remote(Board)
        .options(
            num_cpus=0,
            max_concurrency=8,
            scheduling_strategy=here,
            runtime_env={"env_vars": {name: os.environ.get(name, usual) for name, usual in _SETTINGS.items()}},
        )
        .remote()
    )
    files, path = _files(run.storage, learning.path)
    trainer = TorchTrainer(
        _learn,
        train_loop_config={"lesson": _Lesson(run.loaded, run.storage.place(""), learning, fsdp, board)},
        torch_config=TorchConfig(backend="nccl" if wanted.gpus else "gloo", timeout_s=int(PATIENCE)),
        scaling_config=ScalingConfig(
            num_workers=wanted.workers,
            use_gpu=bool(wanted.gpus),
            resources_per_worker={"CPU": wanted.cpus, **({"GPU": 1} if wanted.gpus else {})},
        ),
        run_config=RunConfig(
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=LOSSES),
        ),
    )
    _watch(board, trainer, show)
    files.delete_dir(path)
    done = _said(run, learning)
    assert done is not None, "a training that ends without an error has said what came of it"
    return done


def _files(storage: Storage, student: str) -> tuple[Any, str]:
    """Where Ray keeps what it knows of a training: a file system and a folder in it.

    Arrow, through which Ray writes, puts an object in place of every folder of an object store; there it is apart from
    our own.
    """
    from pyarrow.fs import FileSystem

    place = storage.place(f"{student}/work/ray")
    files, path = FileSystem.from_uri(storage.place(f"ray/{student}") if "://" in place else place)
    return files, path


def _said(run: Run, learning: Learning) -> dict[str, Any] | None:
    """What a finished training said of itself."""
    try:
        done: dict[str, Any] = json.loads(run.storage.read(f"{learning.path}/{FINISHED}"))
    except FileNotFoundError:
        return None
    return done


def _watch(board: Any, trainer: Any, show: Show) -> None:
    """Run a training to its end and hand on what it shows."""
    import ray

    fitting, shown = board.fit.remote(trainer), (0, 0, "")
    try:
        while True:
            ended, _ = ray.wait([fitting], timeout=0.2)
            at, error = ray.get(board.read.remote())
            if at != shown:
                show(*at)
                shown = at
            if error is not None:
                raise error
            if ended:
                break
        ray.get(fitting)
    except (ray.exceptions.RayTaskError, ray.exceptions.RayActorError) as error:
        raise _why(error) from None
    finally:
        ray.kill(board)


def _why(error: Any) -> BaseException:
    """What a worker said in the end, where one did."""
    for failed in getattr(getattr(error, "cause", None), "worker_failures", {}).values():
        return UnderstudyError(
            f"a worker that trained ended: {in_a_line(failed, 300)}; run again: it goes on from the last checkpoint"
        )
    return cause_of(error)


@dataclass(frozen=True)
class Room:
    """How many workers there are, and what each of them has."""

    workers: int
    cpus: int
    gpus: int


def room(nodes: Sequence[dict[str, Any]], workers: int | None) -> Room:
    """Where workers fit: as many CPUs for each as its node has for it, and a graphics card where all can have one."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    cards, cpus = sum(int(node.get("GPU", 0)) for node in there), [int(node.get("CPU", 0)) for node in there]
    wanted = workers or cards or sum(one > 0 for one in cpus)
    gpus = int(cards >= wanted > 0)
    for each in range(max(cpus, default=0), 0, -1):
        places = sum(
            min(int(node.get("CPU", 0)) // each, int(node.get("GPU", 0)) if gpus else wanted) for node in there
        )
        if wanted and places >= wanted:
            return Room(wanted, each, gpus)
    raise BadInput(
        f"--workers {wanted}: each worker that trains takes a CPU, and the cluster has {sum(cpus)}; lower --workers or "
        "add nodes"
    )


def _learn(config: dict[str, _Lesson]) -> None:
    """What every worker does."""
    import ray

    from ..students.crew import Crew, nothing

    lesson = config["lesson"]
    context = ray.train.get_context()
    for name in _ASIDE:
        os.environ.pop(name, None)
    path, storage = lesson.learning.path, open_storage(lesson.root)
    above = path.rpartition("/")[0]
    run = Run(lesson.loaded, storage, Reporter(quiet=True))
    first = context.get_world_rank() == 0

    def saved(step: int) -> None:
        """Tell Ray, which is also where workers wait for each other; the checkpoint stays where it is."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "where.json").write_text(json.dumps({"path": f"{path}/work/checkpoint-{step}"}))
            ray.train.report({"step": step}, ray.train.Checkpoint.from_directory(folder) if first else None)

    def keep() -> None:
        """Put in the root what was written, and take away the checkpoints that were."""
        storage.keep(above)
        for folder in storage.folders(f"{path}/work"):
            if not storage.local(folder).exists():
                storage.delete(folder)

    crew = Crew(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        fsdp=lesson.fsdp and context.get_world_size() > 1,
        keep=keep,
        fetch=partial(storage.fetch, path),
        saved=saved,
    )
    try:
        lesson.learning(run, _telling(lesson.board) if first else nothing, crew)
        if first:
            storage.keep(above)
    except UnderstudyError as error:
        ray.get(lesson.board.fail.remote(error))
        raise
    finally:
        run.close()


def _telling(board: Any) -> Show:
    """Puts progress on the board, some times a second."""
    told = 0.0

    def show(step: int, steps: int, words: str) -> None:
        nonlocal told
        if step == steps or time.monotonic() - told > 0.2:
            board.show.remote(step, steps, words)
            told = time.monotonic()

    return show
