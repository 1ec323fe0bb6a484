from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from huggingface_hub.utils import _telemetry
from transformers import AutoModelForCausalLM, AutoTokenizer

from understudy.data.errors import NotEnoughData
from understudy.data.rows import Example
from understudy.students.batches import IGNORED, Clock, Collator, LengthOrder, Noise, encode
from understudy.students.build import build_dense
from understudy.students.config import Dense, StudentRecipe, Train
from understudy.students.objectives import answer_loss
from understudy.students.shortcut import last_states
from understudy.students.tokenizer import label_tokens, train_tokenizer
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

LABELS = ("delivery", "refund")
WORDS = {"delivery": ("parcel", "courier", "late", "tracking"), "refund": ("money", "back", "pay", "refund")}


def rows(count: int, *, soft: bool = False, start: int = 0) -> list[Example]:
    found = []
    for number in range(start, start + count):
        label = LABELS[number % 2]
        words = [WORDS[label][(number // 2 + step) % 4] for step in range(2)]
        probs = {name: 0.9 if name == label else 0.1 for name in LABELS} if soft else None
        text = f"hello {words[0]} number {number % 17} {words[1]}"
        found.append(Example(f"r{number}", text, label, f"r{number}", "train", "unlabeled", probs))
    return found


def both(train: list[Example], validation: list[Example], labels: tuple[str, ...] = LABELS) -> TrainingRows:
    return TrainingRows(lambda: iter(train), lambda: iter(validation), labels)


def quiet(step: int, steps: int, detail: str) -> None:
    """Progress that nobody reads."""


def test_the_loss_is_the_cross_entropy_with_the_teachers_probabilities():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 2, 7, dtype=torch.float64), torch.tensor([4, 6])
    targets = torch.tensor([[4, 1], [6, 1], [4, 1]])
    probs = torch.tensor([[0.9, 0.1], [0.3, 0.7], [1.0, 0.0]])

    loss = answer_loss(logits, targets, probs, labels)["loss"]

    slow = 0.0
    for row in range(3):
        for position in range(2):
            values = logits[row, position].tolist()
            total = math.log(sum(math.exp(value) for value in values))
            if position == 0:
                slow -= sum(p * (values[t] - total) for p, t in zip(probs[row].tolist(), (4, 6), strict=True))
            else:
                slow -= values[1] - total
    assert loss.item() == pytest.approx(slow / 6, abs=1e-5)


def test_a_loss_without_probabilities_skips_what_is_not_an_answer():
    logits = torch.randn(1, 3, 5)
    targets = torch.tensor([[IGNORED, 2, 1]])

    loss = answer_loss(logits, targets, None, torch.tensor([]))["loss"]

    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits[0, 1:], targets[0, 1:]).item())


def test_the_shortcut_gives_the_logits_of_the_plain_forward_pass():
    tokenizer = train_tokenizer((row.input for row in rows(40)), 300, LABELS, fold_case=True)
    model = build_dense(Dense(parameters="0.5M"), tokenizer, LABELS, 0).eval()
    prompts = [tokenizer(row.input)["input_ids"][: 3 + number] for number, row in enumerate(rows(6))]
    batch = Collator(tokenizer.pad_token_id, 0, Clock(), None)(
        [{"prompt": prompt, "answer": [9, 1], "probs": [], "state": [], "top_ids": []} for prompt in prompts]
    )
    batch.pop("targets")

    with torch.inference_mode():
        plain = model(**batch, logits_to_keep=2).logits
        states, routed = last_states(model, keep=2, **batch)
        short = model.lm_head(states)

    assert torch.allclose(plain, short, atol=1e-5)
    assert routed == []


def test_noise_is_decided_by_the_seed_and_leaves_the_turn_marks():
    tokenizer = train_tokenizer((row.input for row in rows(40)), 300, LABELS, fold_case=True)
    prompt = tokenizer("<|user|>hello parcel number 12 tracking<|assistant|>", add_special_tokens=False)["input_ids"]
    noise, answer = Noise(tokenizer, LABELS, 0.4), label_tokens(tokenizer, LABELS)[:1]

    first, again, other = (noise(prompt, answer, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert first == again != other
    assert (first[0], first[-1]) == (prompt[0], prompt[-1])
    assert noise(prompt, [7], np.random.default_rng(1)) == prompt, "what is asked to write is left as it is"
    assert Noise(tokenizer, LABELS, 0.0)(prompt, answer, np.random.default_rng(1)) == prompt


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(tmp_path):
    tokenizer = train_tokenizer((row.input for row in rows(40)), 300, LABELS, fold_case=True)
    data = encode(lambda: iter(rows(50)), tokenizer, LABELS, soft=False, max_length=64, cache=tmp_path / "rows.arrow")
    clock = Clock()
    order = LengthOrder(data, 8, 3, clock)

    first = list(order)
    order.set_epoch(1)
    second = list(order)

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert list(LengthOrder(data, 8, 3, Clock(1))) == second


def test_a_long_prompt_is_cut_and_a_long_answer_leaves_the_row_out(tmp_path):
    texts = [
        Example("a", "word " * 99, "short", "a", "train", "x"),
        Example("b", "short", "word " * 99, "b", "train", "x"),
    ]
    tokenizer = train_tokenizer((row.input for row in texts), 300, fold_case=False)

    data = encode(lambda: iter(texts), tokenizer, (), soft=False, max_length=32, cache=tmp_path / "rows.arrow")

    assert len(data) == 1
    assert len(data[0]["prompt"]) + len(data[0]["answer"]) == 32
    assert tokenizer.convert_ids_to_tokens([data[0]["prompt"][0], data[0]["prompt"][-1]]) == [
        "<|user|>",
        "<|assistant|>",
    ]


def test_rows_are_read_once_however_often_a_training_goes_on(tmp_path):
    tokenizer = train_tokenizer((row.input for row in rows(40)), 300, LABELS, fold_case=True)
    cache = tmp_path / "rows.arrow"

    def killed() -> Iterator[Example]:
        yield from rows(2000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(killed, tokenizer, LABELS, soft=False, max_length=64, cache=cache)
    whole = encode(lambda: iter(rows(3000)), tokenizer, LABELS, soft=False, max_length=64, cache=cache)
    again = encode(lambda: iter([]), tokenizer, LABELS, soft=False, max_length=64, cache=cache)

    assert len(whole) == len(again) == 3000
    assert whole[2999] == again[2999]


def test_no_row_that_fits_is_refused_with_the_remedy(tmp_path):
    long = [Example("b", "short", "word " * 99, "b", "train", "x")]
    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=1, max_length=16))

    with pytest.raises(
        NotEnoughData, match=r"^train: no row fits into max_length = 16 tokens; raise train.max_length$"
    ):
        train_student(student, both(long, [], ()), tmp_path / "s", 0, quiet)


@pytest.mark.slow
def test_a_student_learns_labels_and_says_them_in_plain_transformers(tmp_path):
    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=6, batch=16))

    result = train_student(student, both(rows(160, soft=True), rows(20, start=160)), tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100.0
    assert result["parameters"] <= 300_000
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "where is the parcel, the courier is late"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "delivery"
    probs = model(**asked).logits[0, -1].softmax(-1)[label_tokens(tokenizer, LABELS)]
    assert probs.sum() > 0.9


@pytest.mark.slow
def test_a_finished_student_is_not_trained_again(tmp_path):
    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=1))
    steps: list[int] = []
    given = both(rows(64), rows(8, start=64))
    first = train_student(student, given, tmp_path / "s", 0, lambda step, steps_, detail: steps.append(step))
    written = (tmp_path / "s" / "model.safetensors").read_bytes()
    taken = len(steps)

    again = train_student(student, given, tmp_path / "s", 0, lambda step, steps_, detail: steps.append(step))

    assert again == first == json.loads((tmp_path / "s" / "trained.json").read_text())
    assert len(steps) == taken > 0
    assert (tmp_path / "s" / "model.safetensors").read_bytes() == written


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "its mark", "half of its mark", "half of a file", "a file"])
def test_a_training_goes_on_from_the_last_whole_checkpoint_and_ends_with_the_same_weights(lost, tmp_path):
    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=4, batch=16))
    given = both(rows(96, soft=True), rows(8, start=96))
    train_student(student, given, tmp_path / "whole", 0, quiet)

    def die(step: int, steps: int, detail: str) -> None:
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        train_student(student, given, tmp_path / "cut", 0, die)
    before, newest = sorted(int(one.name.partition("-")[2]) for one in (tmp_path / "cut/work").glob("checkpoint-*"))
    checkpoint = tmp_path / f"cut/work/checkpoint-{newest}"
    spoilt = {
        "its mark": "whole",
        "half of its mark": "whole",
        "half of a file": "optimizer.pt",
        "a file": "scheduler.pt",
    }
    if lost != "nothing":
        written = (checkpoint / spoilt[lost]).read_bytes()
        (checkpoint / spoilt[lost]).unlink()
        if lost.startswith("half"):
            (checkpoint / spoilt[lost]).write_bytes(written[: len(written) // 2])
    seen: list[int] = []
    train_student(student, given, tmp_path / "cut", 0, lambda step, steps, detail: seen.append(step))

    assert seen[0] == (newest if lost == "nothing" else before) + 1
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name


@pytest.mark.slow
def test_a_student_learns_to_write_text(tmp_path):
    def pairs(numbers: range) -> Iterator[Example]:
        for number in numbers:
            yield Example(f"p{number}", f"say {number % 5}", f"number {number % 5} it is", "r", "train", "x")

    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=12, batch=16))
    given = TrainingRows(lambda: pairs(range(100)), lambda: pairs(range(5)))

    result = train_student(student, given, tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100.0


def test_a_training_tells_the_hub_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    student = StudentRecipe(init=Dense(parameters="0.3M", vocabulary=512), train=Train(epochs=1))

    train_student(student, both(rows(16), rows(4)), tmp_path / "student", 0, quiet)

    assert _telemetry._TELEMETRY_THREAD is None
