"""Workers that learn a student together learn what one process alone does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from understudy.data.errors import BadInput
from understudy.students.batches import IGNORED
from understudy.students.config import StudentRecipe
from understudy.students.crew import Crew, Part
from understudy.students.records import FILE, read_records
from understudy.students.sft import Pupil, learn_rows

from .crew import PRETRAINED, STUDENTS, alone


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """A folder with every student, learnt by one process and by two, as `tests.crew` has them."""
    folder = tmp_path_factory.mktemp("crew")
    command = [sys.executable, "-m", "tests.crew"]
    workers = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    alone(folder)
    for worker in workers:
        _, said = worker.communicate(timeout=240)
        assert worker.returncode == 0, said.decode()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", STUDENTS)
def test_two_workers_learn_the_weights_of_one_whether_these_are_parted_or_not(name, how, learnt):
    alone, there = learnt / name / "seed-0", learnt / f"{name}-{how}" / "seed-0"
    here, weights = load_file(alone / "model.safetensors"), load_file(there / "model.safetensors")

    assert here.keys() == weights.keys()
    for weight, value in here.items():
        assert torch.allclose(value, weights[weight], rtol=0, atol=1e-5), weight
    said, told = (json.loads((folder / "trained.json").read_text()) for folder in (alone, there))
    assert told.pop("validation_loss") == pytest.approx(said.pop("validation_loss"), rel=1e-5)
    assert {**told, "seconds": 0} == {**said, "seconds": 0}
    assert (there / "config.json").read_text() == (alone / "config.json").read_text()


@pytest.mark.slow
def test_two_workers_learn_the_adapters_of_one(learnt):
    here, there = (load_file(learnt / name / "seed-0/model.safetensors") for name in ("adapters", "adapters-ddp"))

    assert here.keys() == there.keys()
    for weight, value in here.items():
        assert torch.allclose(value, there[weight], rtol=0, atol=1e-5), weight


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAINED)
def test_workers_that_begin_again_from_a_checkpoint_end_in_the_same_weights(name, learnt):
    whole, again = (load_file(learnt / f"{name}-{how}" / "seed-0/model.safetensors") for how in ("ddp", "again"))

    assert all(torch.equal(value, again[weight]) for weight, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", STUDENTS)
def test_the_records_are_those_of_whole_batches(name, how, learnt):
    here, there = (read_records(learnt / folder / "seed-0" / FILE) for folder in (name, f"{name}-{how}"))

    assert len(here) == len(there) > 4
    for one, other in zip(here, there, strict=True):
        for record in (one, other):
            assert record.pop("tokens_per_second") > 0
        assert one.pop("mfu") is other.pop("mfu") is None
        assert other == pytest.approx(one, rel=1e-4, abs=2e-6)


def test_the_rows_of_all_workers_are_the_batch_and_their_shares_the_whole():
    targets = torch.tensor([[5, IGNORED], [5, 6], [7, 6]])
    state = torch.tensor([[1.0], [2.0], [3.0]])
    lost = torch.tensor(1.0)

    parts = [Part(Crew(rank, 4)) for rank in range(4)]
    batches = [part.of({"targets": targets, "input_ids": torch.arange(3)[:, None], "state": state}) for part in parts]

    assert [batch["input_ids"].flatten().tolist() for batch in batches] == [[0], [1], [2], [0]]
    assert {batch["state_size"].item() for batch in batches} == {state.square().mean().item()}
    losses = []
    for rank, part in enumerate(parts):
        part.of({"targets": targets})
        told = part.weighed({"loss": lost, "agreed": torch.tensor([1, 2])}, 0.0)
        assert told["agreed"].tolist() == ([0, 0] if rank == 3 else [1, 2]), "a row that is another's counts nothing"
        losses.append(told["loss"].item() / 4)
    assert losses == pytest.approx([1 / 5, 2 / 5, 2 / 5, 0])


def test_dropout_on_a_part_is_that_on_the_whole_batch():
    output = torch.randn(5, 3, 4)
    torch.manual_seed(3)
    whole = Part(Crew()).dropout(output, 0.4, True)

    for rank in range(2):
        part = Part(Crew(rank, 2))
        part.of({"targets": torch.zeros(5, 1)})
        torch.manual_seed(3)
        assert torch.equal(part.dropout(output[rank::2], 0.4, True), whole[rank::2])
        assert torch.equal(part.dropout(output[rank::2], 0.4, False), output[rank::2])


def test_adapters_are_not_parted(tmp_path):
    recipe = {"init": {"kind": "hub", "model": "m"}, "train": {"lora": {"rank": 4, "alpha": 8}}}
    pupil = Pupil(StudentRecipe.model_validate(recipe), (), None, None, None)

    with pytest.raises(
        BadInput,
        match=r"^--fsdp parts a student whose weights all learn, and train.lora adapts few; leave --fsdp out$",
    ):
        learn_rows(pupil, [], [], tmp_path, 0, lambda *_: None, Crew(0, 2, True))
