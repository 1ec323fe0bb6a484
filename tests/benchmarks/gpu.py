"""A half-billion student on one GPU: `sft` and `topk` beside TRL's own SFTTrainer, in one run.

`python -m tests.benchmarks.gpu`: random weights in the shape of Qwen2.5-0.5B, 151,936 tokens of vocabulary, 8 rows of
1,024 answer tokens, the same for all; weights in float32 under bfloat16 autocast, AdamW, no gradient checkpointing.
Printed are tokens of answers a second over 20 steps after a warm-up, the peak of the memory in them, and MFU: the
arithmetic that the model needs (6 a parameter and token, the head on answers only, causal attention) as a share of the
card's peak in dense bfloat16. Then the loss alone, forward and backward, beside TRL's fused one.

Every trainer has a process of its own. Without a GPU it measures nothing; `--tiny` shows on a CPU that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from understudy.students import sft
from understudy.students.config import UNTRAINED
from understudy.students.hub import Pretrained
from understudy.students.tokenizer import train_tokenizer
from understudy.students.topk import topk_loss
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

from .topk import BATCH, KEPT, recipe, with_alternatives

FULL = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2,
}  # fmt: skip
TINY = {
    "vocab_size": 5000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
GPU = torch.cuda.is_available()
TRAINERS = ("TRL sft", "sft", "topk")
WARM, STEPS = 5, 20
PROMPT, ANSWER, TINY_ANSWER = 33, 1024, 64
"""Tokens, of the answer with its end; together such that neither trainer pads."""
WORDS = ["".join(letters) for letters in product("bdfgklmn", "aeio", "prstvz", "aeio")]


class Enough(Exception):
    """All steps are timed."""


class Clock:
    """Seconds of a step and the peak of its memory; ends the training when it has them."""

    def __init__(self) -> None:
        self.steps = 0

    def tick(self, *_: Any) -> None:
        self.steps += 1
        if self.steps not in (WARM, WARM + STEPS):
            return
        if GPU:
            torch.cuda.synchronize()
        if self.steps == WARM:
            self._began = time.perf_counter()
            if GPU:
                torch.cuda.reset_peak_memory_stats()
            return
        self.seconds = (time.perf_counter() - self._began) / STEPS
        self.peak = torch.cuda.max_memory_allocated() if GPU else 0
        raise Enough


def student(shape: dict[str, int]) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    with torch.device("cuda" if GPU else "cpu"):
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**shape, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1))


def texts(tokenizer: Any, answer: int) -> list[tuple[str, str]]:
    """Prompts and answers, each of one length, in single tokens."""
    draw = np.random.default_rng(0)
    words = [word for word in WORDS if len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1]
    rows = BATCH * (WARM + STEPS + 1)
    return [(" ".join(draw.choice(words, PROMPT - 2)), " ".join(draw.choice(words, answer - 1))) for _ in range(rows)]


def ours(method: str, model: Any, tokenizer: Any, answer: int, clock: Clock, folder: Path) -> None:
    rows = with_alternatives(tokenizer, texts(tokenizer, answer))
    (folder / UNTRAINED).mkdir()  # or the weights would be written there first
    sft.CHECKPOINTS = 1  # at the end, where the clock has stopped
    source = Pretrained(model, tokenizer, "m")
    some = TrainingRows(lambda: iter(rows), lambda: iter(rows[:1]))
    train_student(recipe(method, PROMPT + answer), some, folder / "seed-0", 0, clock.tick, lambda: source)


def theirs(model: Any, tokenizer: Any, answer: int, clock: Clock, folder: Path) -> None:
    """TRL's trainer as it is, told the same precision, and no gradient checkpointing."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Tick(hf.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    lines: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for asked, said in texts(tokenizer, answer):
        ids = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        line = tokenizer.apply_chat_template(ids, tokenize=True, return_dict=False)
        lines["input_ids"].append(line)
        lines["labels"].append([-100] * (len(line) - answer) + line[-answer:])
    arguments = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=1e-4,
        weight_decay=0.05, max_length=None, bf16=GPU, gradient_checkpointing=False,
        use_cpu=not GPU, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    learner = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(lines), processing_class=tokenizer,
        callbacks=[Tick()],
    )  # fmt: skip
    learner.train()


def measure(which: str, tiny: bool) -> dict[str, float]:
    """One trainer: tokens a second, milliseconds of a step, peak in GiB, and what share of the card's peak it used."""
    shape, answer = (TINY, TINY_ANSWER) if tiny else (FULL, ANSWER)
    tokenizer = train_tokenizer(iter(WORDS * 2), 4096, fold_case=False)
    model, clock = student(shape), Clock()
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        if which == "TRL sft":
            theirs(model, tokenizer, answer, clock, Path(folder))
        else:
            ours(which, model, tokenizer, answer, clock, Path(folder))
    return {
        "tokens": BATCH * answer / clock.seconds,
        "ms": 1e3 * clock.seconds,
        "gib": clock.peak / 2**30,
        "mfu": 100 * arithmetic(model, answer) / clock.seconds / peak(),
    }


def arithmetic(model: Any, answer: int) -> float:
    """Floating-point operations that a step needs."""
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    positions = PROMPT + answer - 1
    attention = config.num_hidden_layers * config.hidden_size * positions**2  # T^2 H multiply-adds a layer, causal
    return BATCH * 6 * ((model.num_parameters() - head) * positions + head * answer + attention)


def peak() -> float:
    """The card's, a second; infinite for one that TRL does not know."""
    from trl.trainer.utils import get_peak_flops

    if not GPU:
        return float("inf")
    return get_peak_flops(torch.cuda.get_device_name(), "bfloat16") or float("inf")


def losses(tiny: bool) -> dict[str, dict[str, float]]:
    """The loss alone on a batch's answers: milliseconds and peak in MiB, its gradients among them."""
    from trl.kernels import ChunkedLogProbFunction

    shape, positions = (TINY, BATCH * TINY_ANSWER) if tiny else (FULL, BATCH * ANSWER)
    device = "cuda" if GPU else "cpu"
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    hidden = torch.randn(positions, shape["hidden_size"], device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(shape["vocab_size"], shape["hidden_size"], device=device) / 30).requires_grad_()
    ids = torch.randint(shape["vocab_size"], (positions, KEPT), device=device)
    logps = torch.randn(positions, KEPT, device=device).log_softmax(-1) - 0.1
    sure = torch.zeros(positions, 1, device=device)
    fused = (1.0, 32_768, None, 1.0, ("log_probs", "entropy", "is_top1"))
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "TRL, fused": lambda: -ChunkedLogProbFunction.apply(hidden, weight, None, ids[:, 0], *fused)[0].mean(),
        "topk_loss, one token": lambda: topk_loss(hidden, weight, ids[:, :1], sure),
        f"topk_loss, {KEPT} tokens": lambda: topk_loss(hidden, weight, ids, logps),
    }
    with torch.autocast(device, torch.bfloat16, enabled=GPU):
        return {name: alone(way, (hidden, weight)) for name, way in ways.items()}


def alone(way: Callable[[], torch.Tensor], given: tuple[torch.Tensor, ...]) -> dict[str, float]:
    for turn in range(13):
        if turn == 3:
            if GPU:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if GPU else 0
            began = time.perf_counter()
        way().backward()
        for tensor in given:
            tensor.grad = None
    if GPU:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / 10
    most = torch.cuda.max_memory_allocated() - before if GPU else 0
    return {"ms": 1e3 * seconds, "mib": most / 2**20}


def table(found: dict[str, dict[str, float]]) -> None:
    base = found["TRL sft"]
    print("| trainer | tokens/s | of TRL's | ms a step | peak GiB | of TRL's | MFU |")
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        more = row["gib"] / base["gib"] if base["gib"] else 0
        print(
            f"| {name} | {row['tokens']:,.0f} | {row['tokens'] / base['tokens']:.2f} | {row['ms']:.1f} "
            f"| {row['gib']:.1f} | {more:.2f} | {row['mfu']:.1f}% |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU: does it run?")
    parser.add_argument("--one", choices=[*TRAINERS, "losses"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(losses(given.tiny) if given.one == "losses" else measure(given.one, given.tiny)))
        return
    if not GPU:
        print("no GPU: " + ("nothing below is a measurement" if given.tiny else "nothing to measure; --tiny runs"))
        if not given.tiny:
            sys.exit(2)
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *(["--tiny"] if given.tiny else []), "--one"]

    def run(which: str) -> Any:
        done = subprocess.run([*command, which], check=True, stdout=subprocess.PIPE, text=True)
        print(which, done.stdout.splitlines()[-1], flush=True)
        return json.loads(done.stdout.splitlines()[-1])

    if GPU:
        print(torch.cuda.get_device_name())
    found = {which: run(which) for which in TRAINERS}
    parts = run("losses")
    table(found)
    for name, row in parts.items():
        print(f"{name}: {row['ms']:.1f} ms, {row['mib']:,.0f} MiB")


if __name__ == "__main__":
    main()
