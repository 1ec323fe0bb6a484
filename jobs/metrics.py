"""A run as Prometheus sees it: its spending as it is at the moment of asking, its stages as its events tell them.

Served on a port while the run goes on, or written to a file for node_exporter's textfile collector as each stage ends,
which is the way for a run that a scheduler starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput

if TYPE_CHECKING:
    from prometheus_client import Metric

    from ..pipeline.context import Run

_Values = dict[tuple[str, ...], float]
"""By the values of a metric's labels."""


@contextmanager
def measured(run: Run, place: str) -> Iterator[None]:
    """Tell a run's metrics while the block goes on.

    Args:
        place: a port, or a file that ends with .prom.

    Raises:
        BadInput: it is neither, or cannot be had.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
    except ImportError:
        raise BadInput("--metrics: needs prometheus-client; `pip install 'understudy[metrics]'`") from None
    if not place.isdecimal() and not place.endswith(".prom"):
        raise BadInput(f"--metrics {place}: expected a port such as 9400, or a file such as run.prom")
    registry, stages = CollectorRegistry(), Stages(run)
    registry.register(stages)
    server = None
    try:
        if place.isdecimal():
            server, _ = start_http_server(int(place), registry=registry)
        else:
            write_to_textfile(place, registry)
    except (OSError, OverflowError) as error:
        raise BadInput(f"--metrics {place}: {error}; choose another") from None

    def listen(kind: str, fields: Mapping[str, Any]) -> None:
        stages.listen(kind, fields)
        if server is None and kind in ("stage", "verdict"):
            write_to_textfile(place, registry)

    run.reporter.listeners.append(listen)
    try:
        yield
    finally:
        if server is None:
            write_to_textfile(place, registry)
        else:
            server.shutdown()
            server.server_close()


class Stages:
    """What is known of a run's stages and money, with the recipe's name as a label."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows: _Values = {}
        """By stage, state and reason."""
        self._seconds: _Values = {}
        self._progress: _Values = {}
        self._decisions: _Values = {}

    def listen(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take an event of the run."""
        if kind == "progress":
            self._progress[fields["stage"],] = fields["done"]
        elif kind == "verdict":
            self._decisions = {(fields["decision"],): 1}
        elif kind == "stage" and fields["state"] == "finished":
            stage = fields["stage"]
            self._seconds[stage,] = fields["seconds"]
            for state, counted in (fields["rows"] or {}).items():
                by_reason = counted if isinstance(counted, dict) else {"": counted}
                self._rows |= {(stage, state, reason): rows for reason, rows in by_reason.items()}

    def collect(self) -> Iterator[Metric]:
        """All of it, as Prometheus' client asks for it."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        spend, name = self._run.spend, self._run.recipe.name
        tokens: _Values = {("input",): spend.input_tokens, ("output",): spend.output_tokens}
        failed: _Values = {(kind,): rows for kind, rows in spend.failed.items()}
        told: list[tuple[Any, str, str, Sequence[str], _Values]] = [
            (Counter, "requests", "Asked of teachers.", (), {(): spend.requests}),
            (Counter, "ledger_answers", "Had from the ledger.", (), {(): spend.from_ledger}),
            (Counter, "usd", "Dollars paid to teachers.", (), {(): spend.usd}),
            (Counter, "tokens", "Read and written by teachers.", ["direction"], tokens),
            (Counter, "failures", "Requests that failed, by class.", ["class"], failed),
            (Gauge, "rows", "Of a finished stage.", ["stage", "state", "reason"], self._rows),
            (Gauge, "stage_done", "What a stage under way has done.", ["stage"], self._progress),
            (Gauge, "stage_seconds", "What a finished stage took.", ["stage"], self._seconds),
            (Gauge, "verdict", "What the run was judged.", ["decision"], self._decisions),
            (Gauge, "seen_timestamp_seconds", "When this was told.", (), {(): time.time()}),
        ]
        for kind, what, said, labels, values in told:
            family = kind(f"understudy_{what}", said, labels=["recipe", *labels])
            for given, value in values.items():
                family.add_metric([name, *given], value)
            yield family
