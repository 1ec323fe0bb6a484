"""One vLLM engine, asked by the label stage or asked directly, in a process of its own.

Both send the same prompts with the same sampling, and both find the engine started. `direct` is what is left when
ledger, prompts and rows are taken away: token ids in, token ids out, as many at once as the stage has in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from itertools import count
from pathlib import Path

from understudy.data.rows import Message, Prompt
from understudy.data.storage import LocalStorage
from understudy.data.teacher import Sampling
from understudy.pipeline.context import Run
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.teachers.engine import Engine

from .gauge import Gauge, printable
from .ours import Counted
from .server import SHARED

MODEL = SHARED / "models" / "tinystories-656k-hd32"
ROWS, TOKENS, CONCURRENCY = 1024, 128, 64


def write(folder: Path, rows: int) -> Path:
    """A recipe over openings of stories; its path."""
    folder.mkdir(parents=True)
    lines = (json.dumps({"input": f"Once upon a time there were {number} birds. They"}) for number in range(rows))
    (folder / "pool.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "label.j2").write_text("[user]\n{{ input }}\n")
    recipe = {
        "name": "engine",
        "task": {"kind": "generate", "instruction": "Go on.", "unlabeled": "pool.jsonl"},
        "prompts": {"label": "label.j2"},
        "teachers": {"lead": {"kind": "vllm", "model": str(MODEL), "concurrency": CONCURRENCY}},
        "label": {"max_tokens": TOKENS, "retries": 0},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def ours(run: Run, rows: int) -> Gauge:
    first = next(iter(run.unlabeled()))
    labeler = run.labeler()
    engine = run.teacher("lead").teacher
    asyncio.run(engine.answer(labeler.prompt(first, 0), labeler.sampling))
    gauge = Gauge(rows)
    with run.reporter.track("label", rows) as tracker:
        run.executor.fill(run, Counted(gauge), run.unlabeled(), tracker)
    return gauge


async def direct(run: Run, rows: int) -> Gauge:
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    engine = Engine(MODEL, "main", {}, "benchmark")
    sampling = Sampling(max_tokens=TOKENS)
    params = SamplingParams(
        temperature=0.0, max_tokens=TOKENS, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    numbers, places = count(), asyncio.Semaphore(CONCURRENCY)

    async def ask(text: str) -> None:
        prompt = engine._renderer.render(Prompt("p", (Message("user", text),)), sampling)
        async with places:
            async for _ in engine._engine.generate(tokens_input(prompt.ids), params, f"d{next(numbers)}"):
                pass

    texts = [source.input for source in run.unlabeled()]
    await ask(texts[0])
    gauge = Gauge(rows)

    async def counted(text: str) -> None:
        await ask(text)
        gauge.count()

    await asyncio.gather(*map(counted, texts))
    engine.close()
    return gauge


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("how", choices=("ours", "direct"))
    given = parser.parse_args()
    run = Run(load_recipe(given.recipe), LocalStorage(given.root), Reporter())
    gauge = ours(run, given.rows) if given.how == "ours" else asyncio.run(direct(run, given.rows))
    report = gauge.report()
    run.close()
    print(json.dumps(printable(report)))


if __name__ == "__main__":
    main()
