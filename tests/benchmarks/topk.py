"""Distillation from cached tokens beside TRL's GKD, which asks the teacher in every step.

`python -m tests.benchmarks.topk`: one student, one teacher of eight times its size, both of random weights, the same
rows and batches: tokens a second of both, side by side. Then the memory of the loss alone, at 152,000 tokens of
vocabulary and 4,096 positions, against the same loss with its logits in memory, each in a process of its own; its value
against float64; and what a token costs on disk and how fast it is read.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from understudy.data.artifact import Artifact
from understudy.data.rows import Example, TopTokens
from understudy.data.storage import LocalStorage
from understudy.pipeline.examples import ExampleWriter, read_examples
from understudy.students.config import StudentRecipe
from understudy.students.hub import Pretrained
from understudy.students.tokenizer import train_tokenizer
from understudy.students.topk import topk_loss
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

KEPT = 16
ROWS, BATCH, ANSWER = 128, 8, 64
WORDS = [f"w{number}" for number in range(4000)]
VOCABULARY, POSITIONS, WIDTH = 152_000, 4096, 256


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


def texts() -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    return [(" ".join(draw.choice(WORDS, 12)), " ".join(draw.choice(WORDS, ANSWER // 2))) for _ in range(ROWS)]


def ours(tokenizer: Any, student: Any, folder: Path) -> float:
    """Tokens of answers a second, with K random alternatives to each."""
    draw = np.random.default_rng(1)
    rows, tokens = [], 0
    for number, (asked, said) in enumerate(texts()):
        ids = np.array(tokenizer(said, add_special_tokens=False)["input_ids"], np.int32)
        top = np.concatenate([ids[:, None], draw.integers(5, len(tokenizer), (len(ids), KEPT - 1))], 1)
        logps = np.log(draw.dirichlet(np.ones(KEPT), len(ids)) * 0.9 + 1e-6).astype(np.float16)
        kept = TopTokens(ids, top.astype(np.int32).ravel(), logps.ravel())
        rows.append(Example(f"r{number}", asked, said, f"r{number}", "train", "unlabeled", tokens=kept))
        tokens += len(ids) + 1
    recipe = StudentRecipe.model_validate(
        {
            "init": {"kind": "hub", "model": "m"},
            "train": {"method": ["topk"], "epochs": 2, "batch": BATCH, "max_length": 512},
        }
    )
    seconds: list[float] = []
    source = Pretrained(student, tokenizer, "m")
    some = TrainingRows(lambda: iter(rows), lambda: iter(rows[:1]))
    train_student(recipe, some, folder, 0, lambda *_: seconds.append(time.perf_counter()), lambda: source)
    steps = len(seconds) - 1  # the first has what a process does once
    return tokens * 2 * steps / (steps + 1) / (seconds[-1] - seconds[0])


def gkd(tokenizer: Any, student: Any, teacher: Any, folder: Path) -> float:
    """The same of TRL's trainer, off-policy."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in texts()
    ]
    tokens = sum(len(tokenizer(said, add_special_tokens=False)["input_ids"]) + 1 for _, said in texts())
    seconds: list[float] = []

    class Clock(hf.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter())

    bf16 = torch.cuda.is_available() or bool(torch.cpu._is_amx_tile_supported())
    arguments = GKDConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=2, lmbda=0.0, beta=0.0,
        temperature=1.0, max_length=512, bf16=bf16, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GKDTrainer(
        model=student, teacher_model=teacher, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    steps = len(seconds) - 1
    return tokens * 2 * steps / (steps + 1) / (seconds[-1] - seconds[0])


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", choices=["ours", "naive"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak)
        return
    exact = naive(*case(256, 20_000, torch.float64)).item()
    single = topk_loss(
        *(value.float() if value.is_floating_point() else value for value in case(256, 20_000, torch.float64))
    ).item()
    print(f"loss {single:.7f}, in float64 {exact:.7f}: {abs(single - exact):.1e} apart")
    took = memory()
    ratio = took["naive"] / took["ours"]
    print(f"memory at {VOCABULARY:,} x {POSITIONS:,}: {took['ours']:,.0f} MiB")
    print(f"  the same loss with its logits in memory: {took['naive']:,.0f} MiB, {ratio:.1f}x")
    tokenizer = train_tokenizer(iter(WORDS), 8192, fold_case=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size, speed = storage(folder / "shards")
        print(f"on disk {size:.0f} bytes a token at k = {KEPT}, read at {speed:,.0f} tokens/s")
        student, teacher = model(len(tokenizer), 128, 4), model(len(tokenizer), 512, 2)
        sizes = [one.num_parameters() - one.get_input_embeddings().weight.numel() for one in (student, teacher)]
        print(f"student {sizes[0]:,}, teacher {sizes[1]:,} parameters without embeddings: {sizes[1] / sizes[0]:.1f}x")
        theirs = gkd(tokenizer, model(len(tokenizer), 128, 4), teacher, folder / "gkd")
        mine = ours(tokenizer, student, folder / "ours")
        print(f"tokens/s: topk {mine:,.0f}, GKD {theirs:,.0f}: {mine / theirs:.1f}x")
        print(json.dumps({"topk": mine, "gkd": theirs, "memory": took, "bytes": size, "read": speed}))


if __name__ == "__main__":
    main()
