"""Our path on Ray in a process of its own, and when each answer of it was durable.

Times are those of the ledger's records, which is what a row is worth when something dies; they are compared within one
machine, so its clock is one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from understudy.data.ledger import Ledger
from understudy.data.storage import LocalStorage
from understudy.jobs.cluster import RayExecutor
from understudy.pipeline.context import Run
from understudy.pipeline.label import AskLabel
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("workers", type=int)
    given = parser.parse_args()
    run = Run(load_recipe(given.recipe), LocalStorage(given.root), Reporter(), RayExecutor(None, given.workers))
    try:
        with run.reporter.track("label", None) as tracker:
            run.executor.fill(run, AskLabel(), run.unlabeled(), tracker)
    finally:
        run.close()
    print(json.dumps(sorted(record.body["at"] for record in Ledger(LocalStorage(given.root)).records())))


if __name__ == "__main__":
    main()
