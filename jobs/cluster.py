"""Work on a Ray cluster: the first pass of a stage in actors, so many rows a shard and many shards in flight.

An actor has a window of its own, which all its shards share, so that a slow answer holds one place and no shard waits
for another's last row; and a ledger segment of its own below the run's root, which every node has to see. A lost node
costs the rows of its unfinished shards that were in flight: whoever gets such a shard next reads the ledger first.

The driver is the governor. A minute's requests and tokens are split evenly between the actors. Money is lent to them a
part at a time and asked back when it runs short, so that all together can never spend more than the cap. Ray Data was
weighed and left out: the same throughput, no better than plain actors at a lost node, and 0.7 CPU ms more a row.
Students learn by Ray Train, in `training`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..data.errors import BadInput, BudgetReached, TeacherUnreachable, UnderstudyError
from ..data.rows import Failed
from ..data.storage import open_storage
from ..pipeline.context import Run
from ..pipeline.executor import Asking, Learning
from ..pipeline.progress import Reporter, Tracker
from ..pipeline.recipe import LoadedRecipe
from ..teachers.limits import EvenPace
from ..teachers.openai import OpenAIRecipe
from ..teachers.recorded import Spend

if TYPE_CHECKING:
    from ..students.sft import Show

Item = TypeVar("Item")

SHARDS_IN_FLIGHT = 12
"""Shards that an actor holds: with fewer than about eight windows of rows its window runs dry (measured)."""


_OURS = re.compile(r"^understudy\.data\.errors\.\w+: (.*)$", re.MULTILINE)


@dataclass
class Filled:
    """What an actor hands back for a shard."""

    spend: Spend
    """Since it last handed something back."""
    failures: dict[str, Failed]
    notes: list[str]
    reached: bool = False
    """The money that it was lent ran out before the shard's end."""


class Worker:
    """An actor: one run's teacher and ledger on one node."""

    def __init__(self, loaded: LoadedRecipe, root: str, teacher: str, workers: int) -> None:
        lent = Spend(cap=0.0 if loaded.recipe.budget else None)
        self._run = Run(loaded, open_storage(root), Reporter(quiet=True), spend=lent)
        self._teacher = self._run.teacher(teacher)
        recipe = loaded.recipe.teachers[teacher]
        if isinstance(recipe, OpenAIRecipe):
            self._teacher.teacher.pace = EvenPace(  # type: ignore[attr-defined]
                recipe.requests_per_minute and recipe.requests_per_minute / workers,
                recipe.tokens_per_minute and recipe.tokens_per_minute / workers,
            )
        self._window = asyncio.Semaphore(recipe.concurrency)

    async def fill(self, asking: Asking[Any, Any], items: list[Any], lent: float) -> Filled:
        """Ask for every item of a shard.

        Args:
            lent: dollars more that this actor may spend.
        """
        self._run.ledger.catch_up()  # a shard may come from an actor that is gone
        if self._run.spend.cap is not None:
            self._run.spend.cap += lent
        said = await asyncio.gather(*(self._ask(asking, item) for item in items), return_exceptions=True)
        await asyncio.to_thread(self._run.ledger.flush)
        errors = [error for error in said if isinstance(error, BaseException)]
        others = [error for error in errors if not isinstance(error, BudgetReached)]
        if others:
            raise next((error for error in others if isinstance(error, UnderstudyError)), others[0])
        return Filled(
            self._run.spend.take(), self._teacher.take_failures(), self._run.take_notes(), reached=bool(errors)
        )

    async def give_back(self) -> float:
        """Dollars that were lent and that no request holds."""
        spend = self._run.spend
        if spend.cap is None:
            return 0.0
        left = max(0.0, spend.cap - spend.usd - spend.reserved)
        spend.cap -= left
        return left

    async def _ask(self, asking: Asking[Any, Any], item: Any) -> None:
        async with self._window:
            await asking(self._run, item)


@dataclass(eq=False)
class _Hand:
    """An actor as the driver sees it."""

    actor: Any
    flying: int = 0
    """Shards that it holds."""
    lent: float = 0.0
    """Dollars lent and not yet reported as spent, nor given back."""


class RayExecutor:
    """Fills the ledger from actors, and has students learn on several workers at once.

    Args:
        address: of a cluster; None starts one on this machine.
        workers: actors for a teacher, by default one for each node that is alive, and workers that a student learns on,
            by default one for each graphics card, or for each node with a CPU where there is none.
        fsdp: part students between the workers they learn on.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, fsdp: bool = False) -> None:
        self._address = address
        self._workers = workers
        self._fsdp = fsdp
        self._connected = False
        self._hands: dict[str, list[_Hand]] = {}

    def fill(self, run: Run, asking: Asking[Item, Any], items: Iterable[Item], tracker: Tracker) -> None:
        name = asking.teacher(run)
        if name not in self._hands:
            self._hands[name] = [_Hand(actor) for actor in self._start(run, name)]
        size = max(1, min(256, run.window(name) * 2 // 3))
        _Filling(run, asking, items, size, self._hands[name], tracker).all()
        run.ledger.catch_up()

    def learn(self, run: Run, learning: Learning, show: Show) -> dict[str, Any]:
        from .training import learn_on_cluster

        self._connect()
        return learn_on_cluster(run, learning, self._workers, self._fsdp, show)

    def close(self) -> None:
        if not self._connected:
            return
        import ray

        for hands in self._hands.values():
            for hand in hands:
                ray.kill(hand.actor)
        self._hands, self._connected = {}, False
        ray.shutdown()

    def _start(self, run: Run, name: str) -> list[Any]:
        """The actors, spread over the nodes; one that dies is started again elsewhere, and its shards with it."""
        import ray

        self._connect()
        nodes = sum(node["Alive"] for node in ray.nodes())
        workers = self._workers or nodes
        root = run.storage.place("")
        actor = ray.remote(Worker).options(
            num_cpus=0.1,
            num_gpus=_gpus(run, name),
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=SHARDS_IN_FLIGHT + 1,
        )
        return [actor.remote(run.loaded, root, name, workers) for _ in range(workers)]

    def _connect(self) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise BadInput("--on ray: ray is not installed; run `pip install 'understudy[ray]'`") from None
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            with _signals_kept():
                if self._address is None:
                    ray.init(address="local", include_dashboard=False, num_cpus=max(2, self._workers or 1), **quiet)
                else:
                    _knock(self._address)
                    ray.init(address=self._address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise TeacherUnreachable(
                f"--address {self._address}: no Ray cluster answers there: {said}; start it, or check the address"
            ) from None
        self._connected = True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes over SIGTERM, and would end the process with a code of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for ten minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


class _Filling(Generic[Item]):
    """One first pass: which shards are where, and who has how much money."""

    def __init__(
        self,
        run: Run,
        asking: Asking[Item, Any],
        items: Iterable[Item],
        size: int,
        hands: Sequence[_Hand],
        tracker: Tracker,
    ) -> None:
        self._run = run
        self._asking = asking
        self._shards = _shards(items, size)
        self._again: deque[list[Item]] = deque()
        self._hands = hands
        self._tracker = tracker
        self._flying: dict[Any, tuple[_Hand, list[Item], bool]] = {}
        """Who holds a shard, the shard, and whether all the money went with it."""
        self._tight = False
        """The cap is near: one shard at a time, and all the money with it."""

    def all(self) -> None:
        import ray

        try:
            while self._send():
                landed, _ = ray.wait(list(self._flying), num_returns=1)
                for ref in landed:
                    self._land(*self._flying.pop(ref), ref)
        except BaseException:
            for ref in self._flying:
                ray.cancel(ref)
            raise

    def _send(self) -> bool:
        """Give out what can be given out; False where nothing is left to wait for."""
        if self._tight and not self._flying:
            self._take_back()
        most = 1 if self._tight else SHARDS_IN_FLIGHT * len(self._hands)
        while len(self._flying) < most:
            shard = self._again.popleft() if self._again else next(self._shards, None)
            if shard is None:
                break
            hand = min(self._hands, key=lambda hand: hand.flying)
            hand.flying += 1
            self._flying[hand.actor.fill.remote(self._asking, shard, self._lend(hand))] = hand, shard, self._tight
        return bool(self._flying)

    def _land(self, hand: _Hand, shard: list[Item], had_all: bool, ref: Any) -> None:
        import ray

        hand.flying -= 1
        try:
            filled: Filled = ray.get(ref)
        except (ray.exceptions.RayTaskError, ray.exceptions.RayActorError) as error:
            raise cause_of(error) from None
        hand.lent -= filled.spend.usd
        self._run.spend.add(filled.spend)
        self._run.teacher(self._asking.teacher(self._run)).add_failures(filled.failures)
        self._run.tell(filled.notes)
        if filled.reached:
            self._again.append(shard)
            self._tight = True
            if had_all:
                raise self._run.spend.reached()
        else:
            self._tracker.advance(lambda: self._run.spend.line(len(self._flying), "shards"), by=len(shard))

    def _take_back(self) -> None:
        """All money that was lent and that nobody uses."""
        import ray

        given = ray.get([hand.actor.give_back.remote() for hand in self._hands])
        for hand, left in zip(self._hands, given, strict=True):
            hand.lent -= left

    def _lend(self, hand: _Hand) -> float:
        """Of what is left of the cap, all where it is near, else as much as keeps a part of it in this hand."""
        spend = self._run.spend
        if spend.cap is None:
            return 0.0
        free = max(0.0, spend.cap - spend.paid - sum(other.lent for other in self._hands))
        part = free if self._tight else min(free, max(0.0, free / (2 * len(self._hands)) - hand.lent))
        hand.lent += part
        return part


def _shards(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while shard := list(islice(source, size)):
        yield shard


def cause_of(error: Any) -> BaseException:
    """The error as it was raised in the actor; where the actor did not even start, as its own words have it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, UnderstudyError):
        return cause
    if told := _OURS.findall(str(error)):
        return BadInput(f"on a Ray worker: {told[-1].strip()}")
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return UnderstudyError(f"a Ray worker ended: {said.strip()[:300]}; what was paid for is in the ledger: run again")


def _gpus(run: Run, name: str) -> int:
    """Graphics cards that an engine of this teacher wants, where the cluster has any."""
    import ray

    teacher = run.recipe.teachers[name]
    engine: Mapping[str, Any] = getattr(teacher, "engine", {})
    wanted = int(engine.get("tensor_parallel_size", 1)) if teacher.kind in ("vllm", "transformers") else 0
    return wanted if ray.cluster_resources().get("GPU", 0) >= wanted else 0
