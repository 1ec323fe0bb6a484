"""Distillation from cached tokens beside TRL's GKD, which asks the teacher in every step.

`python -m tests.benchmarks.topk`: one student and one larger teacher of random weights, the same rows in the same
batches, precision and optimizer: answer tokens a second of both, in turns, at three shapes. The one that counts has a
teacher of eight times the student's parameters in all, as models are named; the others are eight times without the
embeddings, which is less of a teacher. Then the memory of the loss alone, at 152,000 tokens of vocabulary and 4,096
positions, against the same loss with its logits in memory, each in a process of its own; its value against float64; and
what a token costs on disk and how fast it is read.

`--only speed --threads 1` measures that part alone. On a busy machine the ratio of processor time is the steadier one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers as hf

from understudy.data.artifact import Artifact
from understudy.data.rows import Example, TopTokens
from understudy.data.storage import LocalStorage
from understudy.pipeline.examples import ExampleWriter, read_examples
from understudy.students import sft
from understudy.students.config import StudentRecipe
from understudy.students.hub import Pretrained
from understudy.students.tokenizer import train_tokenizer
from understudy.students.topk import topk_loss
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

KEPT = 16
ROWS, BATCH = 64, 8
PROMPT, ANSWER = 12, 32
"""Words; three tokens each."""
WORDS = [f"w{number}" for number in range(1000, 4000)]
VOCABULARY, POSITIONS, WIDTH = 152_000, 4096, 256


@dataclass(frozen=True)
class Shape:
    """A student and a teacher, each as wide and as deep."""

    name: str
    vocabulary: int
    student: tuple[int, int]
    teacher: tuple[int, int]


SHAPES = [
    Shape("teacher 8x in all", 32_000, (256, 6), (768, 11)),
    Shape("teacher 8x without embeddings", 32_000, (256, 6), (768, 5)),
    Shape("the same, small vocabulary", 8192, (128, 4), (512, 2)),
]


def model(vocabulary: int, width: int, layers: int) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    return hf.Qwen3ForCausalLM(
        hf.Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            head_dim=32,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def texts(tokenizer: Any) -> list[tuple[str, str]]:
    """Prompts and answers, of one length in tokens each, so that every order of rows makes the same batches."""
    draw = np.random.default_rng(0)
    words = [word for word in WORDS if len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 3]
    return [(" ".join(draw.choice(words, PROMPT)), " ".join(draw.choice(words, ANSWER))) for _ in range(ROWS)]


@dataclass
class Clock:
    """Wall and processor time at the end of each step."""

    wall: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)

    def tick(self, *_: Any) -> None:
        self.wall.append(time.perf_counter())
        self.used.append(time.process_time())

    def step(self) -> tuple[float, float]:
        """Seconds of a step, of both; the first one, which has what a process does once, is not counted."""
        steps = len(self.wall) - 1
        return (self.wall[-1] - self.wall[0]) / steps, (self.used[-1] - self.used[0]) / steps


def with_alternatives(tokenizer: Any, pairs: Iterable[tuple[str, str]]) -> list[Example]:
    """Rows as a teacher leaves them, with K tokens of random probability at each place of the answer."""
    draw = np.random.default_rng(1)
    rows = []
    for number, (asked, said) in enumerate(pairs):
        ids = np.array(tokenizer(said, add_special_tokens=False)["input_ids"], np.int32)
        top = np.concatenate([ids[:, None], draw.integers(5, len(tokenizer), (len(ids), KEPT - 1))], 1)
        logps = np.log(draw.dirichlet(np.ones(KEPT), len(ids)) * 0.9 + 1e-6).astype(np.float16)
        kept = TopTokens(ids, top.astype(np.int32).ravel(), logps.ravel())
        rows.append(Example(f"r{number}", asked, said, f"r{number}", "train", "unlabeled", tokens=kept))
    return rows


def recipe(method: str, max_length: int) -> StudentRecipe:
    train = {"method": [method], "epochs": 1, "batch": BATCH, "max_length": max_length}
    return StudentRecipe.model_validate({"init": {"kind": "hub", "model": "m"}, "train": train})


def ours(tokenizer: Any, student: Any, folder: Path) -> tuple[float, float]:
    """Seconds of a step."""
    rows, clock = with_alternatives(tokenizer, texts(tokenizer)), Clock()
    sft.CHECKPOINTS = 1  # at the end, where the clock has stopped; GKD writes none
    source = Pretrained(student, tokenizer, "m")
    some = TrainingRows(lambda: iter(rows), lambda: iter(rows[:1]))
    train_student(recipe("topk", 512), some, folder, 0, clock.tick, lambda: source)
    return clock.step()


def gkd(tokenizer: Any, student: Any, teacher: Any, folder: Path) -> tuple[float, float]:
    """The same of TRL's trainer, off-policy, with forward KL as ours."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in texts(tokenizer)
    ]
    clock = Clock()

    class Tick(hf.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    arguments = GKDConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=1, lmbda=0.0, beta=0.0,
        temperature=1.0, max_length=512, bf16=sft.has_bf16(), report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False,
    )  # fmt: skip
    learner = GKDTrainer(
        model=student, teacher_model=teacher, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[Tick()],
    )  # fmt: skip
    learner.train()
    return clock.step()


def sizes(one: Any) -> tuple[int, int]:
    """Parameters in all, the tied embeddings counted once, and without them."""
    return one.num_parameters(), one.num_parameters() - one.get_input_embeddings().weight.numel()


def speed(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Tokens a second of both at every shape, in turns, and the ratio of each round."""
    tokenizer = train_tokenizer(iter(WORDS), 8192, fold_case=False)
    tokens = BATCH * (3 * ANSWER + 1)
    found = []
    for shape in SHAPES:
        teacher = model(shape.vocabulary, *shape.teacher)
        mine, theirs = [], []
        for number in range(rounds):
            place = folder / f"{shape.vocabulary}-{shape.teacher[1]}-{number}"
            theirs.append(gkd(tokenizer, model(shape.vocabulary, *shape.student), teacher, place / "gkd"))
            mine.append(ours(tokenizer, model(shape.vocabulary, *shape.student), place / "ours"))
        small, large = sizes(model(shape.vocabulary, *shape.student)), sizes(teacher)
        found.append(
            {
                "shape": shape.name,
                "vocabulary": shape.vocabulary,
                "student": small[0],
                "larger": [big / little for big, little in zip(large, small, strict=True)],
                "topk": median(tokens / wall for wall, _ in mine),
                "gkd": median(tokens / wall for wall, _ in theirs),
                "ratio": [slow[0] / fast[0] for slow, fast in zip(theirs, mine, strict=True)],
                "processor": [slow[1] / fast[1] for slow, fast in zip(theirs, mine, strict=True)],
            }
        )
    return found


def between(ratios: Iterable[float]) -> str:
    known = sorted(ratios)
    return f"{median(known):.1f}x ({known[0]:.1f} to {known[-1]:.1f})"


def table(found: list[dict[str, Any]]) -> None:
    print("| shape | vocabulary | student | teacher, in all / without embeddings | topk | GKD | wall | processor |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row['shape']} | {row['vocabulary']:,} | {row['student'] / 1e6:.1f}M "
            f"| {row['larger'][0]:.1f}x / {row['larger'][1]:.1f}x | {row['topk']:,.0f} | {row['gkd']:,.0f} "
            f"| {between(row['ratio'])} | {between(row['processor'])} |"
        )


def naive(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
    """The same divergence with everything in memory."""
    said = (hidden @ weight.T).float().log_softmax(-1)
    probs = logps.exp()
    rest = 1 - probs.sum(-1)
    others = said.scatter(1, ids, -torch.inf).logsumexp(-1)
    kept = (probs * (logps - said.gather(1, ids))).sum(-1)
    return (kept + torch.xlogy(rest, rest) - rest * others).mean()


def case(positions: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(positions, WIDTH, dtype=dtype)
    weight = torch.randn(vocabulary, WIDTH, dtype=dtype) / 16
    ids = torch.argsort(torch.rand(positions, 64), -1)[:, :KEPT] * (vocabulary // 64)
    logps = (torch.softmax(torch.randn(positions, KEPT, dtype=dtype), -1) * 0.95).log()
    return hidden.requires_grad_(), weight.requires_grad_(), ids, logps


def peak(which: str) -> None:
    """Print the MiB that loss and gradients took in this process."""
    given = case(POSITIONS, VOCABULARY, torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = (topk_loss if which == "ours" else naive)(*given)
    loss.backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.topk", "--peak"]
    return {
        which: float(subprocess.run([*command, which], check=True, capture_output=True, text=True).stdout)
        for which in ("ours", "naive")
    }


def storage(folder: Path) -> tuple[float, float]:
    """Bytes of a token on disk, and tokens read a second; alternatives as skewed as a language model's."""
    draw, tokens = np.random.default_rng(2), 0
    artifact = Artifact(LocalStorage(folder), "label", "0" * 16)
    writer = ExampleWriter(artifact)
    for number in range(2000):
        length = int(draw.integers(40, 80))
        top = np.minimum(draw.zipf(1.3, (length, KEPT)), VOCABULARY - 1).astype(np.int32)
        logps = -np.sort(draw.exponential(3, (length, KEPT)), -1).astype(np.float16)
        kept = TopTokens(top[:, 0].copy(), top.ravel(), logps.ravel())
        writer.add(Example(f"r{number}", "a", "b", f"r{number}", "train", "unlabeled", tokens=kept))
        tokens += length
    artifact.finish({"shards": writer.close()})
    size = sum(path.stat().st_size for path in (artifact.folder / "logprobs").iterdir())
    started = time.perf_counter()
    read = sum(len(row.tokens.ids) for row in read_examples(artifact) if row.tokens is not None)
    return size / tokens, read / (time.perf_counter() - started)


def exactness() -> float:
    """How far the loss in float32 is from the slow version in float64."""
    given = case(256, 20_000, torch.float64)
    exact = naive(*given).item()
    single = topk_loss(*(value.float() if value.is_floating_point() else value for value in given)).item()
    print(f"loss {single:.7f}, in float64 {exact:.7f}: {abs(single - exact):.1e} apart")
    return abs(single - exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["speed", "memory", "storage"], help="one part; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of each trainer; default: as torch has it")
    parser.add_argument("--peak", choices=["ours", "naive"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak)
        return
    if given.threads:
        torch.set_num_threads(given.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "memory"):
            found["apart"] = exactness()
            found["memory"] = took = memory()
            print(f"memory at {VOCABULARY:,} x {POSITIONS:,}: {took['ours']:,.0f} MiB")
            ratio = took["naive"] / took["ours"]
            print(f"  the same loss with its logits in memory: {took['naive']:,.0f} MiB, {ratio:.1f}x")
        if given.only in (None, "storage"):
            found["bytes"], found["read"] = storage(Path(folder) / "shards")
            print(f"on disk {found['bytes']:.0f} bytes a token at k = {KEPT}, read at {found['read']:,.0f} tokens/s")
        if given.only in (None, "speed"):
            found["speed"] = speed(given.rounds, Path(folder))
            table(found["speed"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
