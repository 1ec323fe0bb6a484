"""The top-k loss: equal to a slow version that is plainly right, with exact gradients, and in little memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.rows import Example, Message, Prompt, TopTokens
from understudy.data.teacher import Sampling
from understudy.students import topk
from understudy.students.batches import encode
from understudy.students.config import StudentRecipe
from understudy.students.hub import Pretrained
from understudy.students.objectives import plain_head
from understudy.students.topk import topk_loss
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows
from understudy.teachers.local import LocalModel

from .test_students_hub import FAMILIES, by_bytes, family, quiet


def slow(hidden, weight, ids, logps):
    """The same divergence with everything in memory, position by position."""
    student = (hidden @ weight.T).log_softmax(-1)
    total = torch.zeros((), dtype=hidden.dtype)
    for row, kept, values in zip(student, ids, logps, strict=True):
        probs = {}
        for token, value in zip(kept.tolist(), values.exp(), strict=True):
            probs[token] = probs.get(token, 0) + value
        for token, p in probs.items():
            if p > 0:
                total = total + p * (p.log() - row[token])
        rest = 1 - sum(probs.values())
        if rest > 1e-12:
            others = torch.tensor([token for token in range(len(row)) if token not in probs])
            total = total + rest * (rest.log() - row[others].logsumexp(0))
    return total / len(hidden)


def a_case(positions=23, vocabulary=101, width=16, kept=8, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(positions, width, generator=draw, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=draw, dtype=dtype) / 2
    teacher = torch.randn(positions, vocabulary, generator=draw, dtype=dtype).mul(3).log_softmax(-1)
    logps, ids = teacher.topk(kept)
    return hidden.requires_grad_(), weight.requires_grad_(), ids, logps


def test_loss_and_gradients_are_those_of_the_slow_version(monkeypatch):
    monkeypatch.setattr(topk, "_chunk", lambda _: 7)  # several chunks, the last one short
    hidden, weight, ids, logps = a_case()
    expected = slow(hidden, weight, ids, logps)
    wanted = torch.autograd.grad(expected, (hidden, weight))

    loss = topk_loss(hidden, weight, ids, logps)
    found = torch.autograd.grad(3 * loss, (hidden, weight))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours / 3 - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk):
    hidden, weight, ids, logps = a_case()
    whole = torch.autograd.grad(topk_loss(hidden, weight, ids, logps), (hidden, weight))
    monkeypatch.setattr(topk, "_chunk", lambda _: chunk)

    parts = torch.autograd.grad(topk_loss(hidden, weight, ids, logps), (hidden, weight))

    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_in_float32_the_loss_is_right_to_a_hundred_thousandth():
    exact = a_case(positions=64, vocabulary=5000, width=64, kept=16)
    hidden, weight, ids, logps = (value.detach() for value in exact)

    loss = topk_loss(hidden.float(), weight.float(), ids, logps.half())

    assert loss.item() == pytest.approx(slow(hidden, weight, ids, logps.half().double()).item(), abs=1e-5, rel=1e-5)


def test_a_single_sure_token_is_cross_entropy():
    hidden, weight, ids, _ = a_case()
    target = ids[:, :1]
    filled = torch.cat([target, target.expand(-1, 3)], 1)
    logps = torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]]).expand(len(hidden), -1)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, target[:, 0])
    wanted = torch.autograd.grad(expected, (hidden, weight))

    loss = topk_loss(hidden, weight, filled, logps)
    found = torch.autograd.grad(loss, (hidden, weight))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-6


def test_a_student_that_says_what_the_teacher_says_has_no_loss_and_no_gradient():
    hidden, weight, _, _ = a_case()
    logps, ids = (hidden @ weight.T).log_softmax(-1).detach().topk(8)

    loss = topk_loss(hidden, weight, ids, logps)
    (gradient,) = torch.autograd.grad(loss, hidden)

    assert abs(loss.item()) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_a_token_that_stands_twice_counts_once_with_both_probabilities():
    hidden, weight, ids, logps = a_case()
    ids[:, 5], ids[:, 6] = ids[:, 0], ids[:, 1]
    expected = slow(hidden, weight, ids, logps)
    wanted = torch.autograd.grad(expected, (hidden, weight))

    loss = topk_loss(hidden, weight, ids, logps)
    found = torch.autograd.grad(loss, (hidden, weight))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-7


def test_in_bfloat16_loss_and_gradients_are_as_near_as_the_logits_allow():
    hidden, weight, ids, logps = a_case(positions=64, vocabulary=5000, width=64, kept=16, dtype=torch.float32)
    exact = [value.detach().bfloat16().double().requires_grad_() for value in (hidden, weight)]
    expected = slow(*exact, ids, logps.double())
    wanted = torch.autograd.grad(expected, exact)

    with torch.autocast("cpu", torch.bfloat16):
        loss = topk_loss(hidden, weight, ids, logps)
    found = torch.autograd.grad(loss, (hidden, weight))

    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_the_loss_is_differentiated_once():
    loss = topk_loss(*a_case())
    loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_probabilities_that_pass_one_by_rounding_leave_the_loss_finite():
    hidden, weight, ids, _ = a_case(kept=2)
    logps = torch.tensor([[math.log(0.7), math.log(0.3004)]]).expand(len(hidden), -1)

    loss = topk_loss(hidden, weight, ids, logps)
    (gradient,) = torch.autograd.grad(loss, hidden)

    assert math.isfinite(loss.item())
    assert torch.isfinite(gradient).all()


def test_a_teacher_that_keeps_the_whole_vocabulary_leaves_no_rest():
    hidden, weight, ids, logps = a_case(vocabulary=8, kept=8)

    loss = topk_loss(hidden, weight, ids, logps)
    (gradient,) = torch.autograd.grad(loss, hidden)

    assert loss.item() == pytest.approx(slow(hidden, weight, ids, logps).item(), rel=1e-6)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("lora", "rate"), [(None, 0.003), ({"rank": 16}, 0.02)])
def test_a_student_learns_how_sure_the_teacher_was(lora, rate, tmp_path):
    tokenizer = by_bytes()
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("refund", "parcel"))
    logps = [math.log(0.7), math.log(0.2)]  # and a tenth for all the rest

    def told(number: int) -> Example:
        kept = TopTokens(np.array(yes[:1], np.int32), np.array([yes[0], no[0]], np.int32), np.array(logps, np.float16))
        return Example(f"r{number}", f"number {number % 3}", "refund", f"r{number}", "train", "unlabeled", tokens=kept)

    rows = [told(number) for number in range(48)]
    recipe = StudentRecipe.model_validate(
        {
            "init": {"kind": "hub", "model": "m"},
            "train": {
                "method": ["topk"],
                "epochs": 30,
                "batch": 16,
                "learning_rate": rate,
                "max_length": 64,
                "lora": lora,
            },
        }
    )
    model = family("qwen3", tokenizer)
    if lora:
        model.get_output_embeddings().weight.data *= 50  # adapters leave the head alone: it has to be able to say it
    source = Pretrained(model, tokenizer, "m")

    result = train_student(
        recipe, TrainingRows(lambda: iter(rows), lambda: iter(rows[:6])), tmp_path / "seed-0", 0, quiet, lambda: source
    )

    assert result["validation_agreement"] == 100
    local = LocalModel(tmp_path / "seed-0", "main", "cpu", 8, "student")
    asked = Prompt("p", (Message("user", "number 1"),))
    [said] = local.answer([asked], Sampling(temperature=0, max_tokens=4, logprobs=2))
    assert [math.exp(value) for _, value in said.tokens[0].top] == pytest.approx([0.7, 0.2], abs=0.03)
    assert said.finish_reason == "stop", "the end is learnt too, though nobody told its probability"


def granite() -> hf.PreTrainedModel:
    """It scales its logits."""
    scaled = hf.GraniteConfig(vocab_size=len(by_bytes()), hidden_size=32, num_hidden_layers=1, logits_scaling=8.0)
    return hf.AutoModelForCausalLM.from_config(scaled)


def test_a_model_that_does_more_to_its_logits_is_known():
    plain = {name for name in FAMILIES if plain_head(family(name, by_bytes()))}

    assert plain == FAMILIES.keys() - {"gemma2", "phi"}
    assert not plain_head(granite())


def test_a_model_that_does_more_to_its_logits_is_refused(tmp_path):
    rows = [Example("r1", "number 1", "x", "r1", "train", "unlabeled")]
    recipe = StudentRecipe.model_validate({"init": {"kind": "hub", "model": "m"}, "train": {"method": ["topk"]}})
    source, some = Pretrained(granite(), by_bytes(), "m"), TrainingRows(lambda: iter(rows), lambda: iter(rows))

    with pytest.raises(BadInput) as caught:
        train_student(recipe, some, tmp_path / "seed-0", 0, quiet, lambda: source)

    assert str(caught.value) == (
        "train.method: topk needs logits that are a product with the model's head, and those of type 'granite' are "
        "capped, scaled or shifted; use [sft]"
    )


def test_what_a_cache_cannot_be_is_refused_in_one_line(tmp_path):
    tokenizer = by_bytes()

    def refusal(token: int, logprob: float) -> str:
        kept = TopTokens(np.array([5], np.int32), np.array([5, token], np.int32), np.array([-1.0, logprob], np.float16))
        row = Example("r1", "number 1", "x", "r1", "train", "unlabeled", tokens=kept)
        with pytest.raises(BadInput) as caught:
            encode(lambda: iter([row]), tokenizer, (), soft=False, max_length=64, cache=tmp_path / "a", topk=True)
        return str(caught.value)

    assert refusal(9, math.nan) == ("row r1: a teacher's log-probability is no number; label again with a fresh ledger")
    assert refusal(99_999, -2.0) == (
        f"row r1: token 99999 of the teacher's is none of the student's {len(tokenizer)}; `topk` needs the teacher's "
        "tokenizer"
    )
