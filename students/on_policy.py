"""Learning from the teacher's probabilities of what the student itself writes while it learns, by TRL's trainer.

Where a student goes wrong no answer of the teacher's shows it how to go on; here it learns just there. The teacher
reads its own instruction before the student's words, and the student none. Experimental.
Source: Agarwal et al. 2024, arXiv:2306.13649.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler
from trl import DistillationConfig, DistillationTrainer

from ..data.errors import BadInput, NotEnoughData
from ..data.rows import Example
from .batches import fitted, render
from .checkpoints import last_checkpoint
from .sft import Pupil, Seam, Show, Steps, settings
from .tokenizer import answer_mark

if TYPE_CHECKING:
    from datasets import Dataset as Rows
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Lead:
    """A teacher in memory, as a student on its own policy needs it."""

    model: PreTrainedModel
    asked: Callable[[Sequence[str]], list[list[int]]]
    """Tokens that it reads of every input before an answer."""


@dataclass(frozen=True)
class Openings:
    """Inputs to be answered, as tokens."""

    prompts: list[list[int]]
    asked: list[list[int]]
    """The same as the teacher reads them."""
    longest: int
    """Tokens of the longest answer of the teacher's, with its end: the student may write as many."""

    def __len__(self) -> int:
        return len(self.prompts)


def encode_openings(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerFast, lead: Lead, max_length: int
) -> Openings:
    """Inputs as tokens; one that is too long loses its end, not its turn marks.

    Raises:
        NotEnoughData: the teacher's longest answer leaves no room for a prompt.
    """
    texts, closing = [row.input for row in rows], answer_mark(tokenizer)
    answers: list[list[int]] = tokenizer([row.output for row in rows], add_special_tokens=False)["input_ids"]
    longest = max(map(len, answers)) + 1
    prompts: list[list[int]] = tokenizer(render(tokenizer, texts), add_special_tokens=False)["input_ids"]
    cut = [fitted(prompt, max_length - longest, closing) for prompt in prompts]
    if not all(cut):
        raise NotEnoughData(
            f"train: an answer of {longest} tokens leaves no prompt room in max_length = {max_length}; raise "
            "train.max_length"
        )
    return Openings(cut, lead.asked(texts), longest)


def learn_on_policy(
    pupil: Pupil, openings: Openings, validation: Rows, work: Path, seed: int, show: Show, *, lead: Lead
) -> dict[str, int | None]:
    """Learn from what a teacher would say next, going on from the last checkpoint in ``work``.

    Returns:
        As `learn_rows`.

    Raises:
        BadInput: the student's vocabulary is padded further than the teacher's.
    """
    from datasets import Dataset

    ours, theirs = pupil.model.config.vocab_size, lead.model.config.get_text_config().vocab_size
    if ours > theirs:
        raise BadInput(
            f"train.method: on_policy compares whole vocabularies, and the student's is padded to {ours:,} tokens "
            f"where the teacher's has {theirs:,}; use topk, which does not"
        )
    if ours < theirs:
        lead.model.resize_token_embeddings(ours)  # rows that pad it stand for no token
    args = DistillationConfig(
        **settings(pupil.recipe.train, work, seed, len(openings)), max_completion_length=openings.longest
    )
    trainer = _OnPolicyTrainer(
        openings=openings,
        order=_Order(len(openings), seed),
        model=pupil.learning,
        teacher_model=lead.model,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [str(place) for place in range(len(openings))]}),
        processing_class=pupil.tokenizer,
        callbacks=[Steps(show)],
    )
    return trainer.learn(last_checkpoint(work))


class _Order(Sampler[int]):
    """A new order each epoch, decided by seed and epoch alone."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed, self._epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng([self._seed, self._epoch]).permutation(self._rows).tolist()


class _OnPolicyTrainer(Seam, DistillationTrainer):  # type: ignore[misc]
    """The seam: prompts are tokens already, and the teacher reads others than the student.

    Shapes: B rows, P positions of the student's prompts, A of the teacher's, C of what the student wrote.
    """

    def __init__(self, *, openings: Openings, order: _Order, **given: Any) -> None:
        self._order = order
        self._prompts = openings.prompts
        self._asked = {tuple(ours): theirs for ours, theirs in zip(openings.prompts, openings.asked, strict=True)}
        super().__init__(**given)

    def _get_train_sampler(self, dataset: Any = None) -> _Order:
        """Theirs goes on with one generator from epoch to epoch, and begins anew after a kill."""
        return self._order

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompts[int(place)] for place in prompts], None, {}

    def _get_last_hidden_state(
        self, unwrapped_model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **more: Any
    ) -> Tensor:
        if unwrapped_model is self.accelerator.unwrap_model(self.teacher_model):
            input_ids, attention_mask = self._as_asked(input_ids, attention_mask, logits_to_keep)
        states: Tensor = super()._get_last_hidden_state(
            unwrapped_model, input_ids, attention_mask, logits_to_keep, **more
        )
        return states

    def _as_asked(self, ids_BT: Tensor, mask_BT: Tensor, written: int) -> tuple[Tensor, Tensor]:
        """Ids and mask, [B, A + C], of what the student wrote behind the teacher's own prompts."""
        ours = zip(ids_BT[:, :-written].tolist(), mask_BT[:, :-written].tolist(), strict=True)
        asked = [self._asked[tuple(token for token, real in zip(*row, strict=True) if real)] for row in ours]
        longest = max(map(len, asked))
        ids_BA = ids_BT.new_tensor([[0] * (longest - len(line)) + line for line in asked])
        mask_BA = mask_BT.new_tensor([[0] * (longest - len(line)) + [1] * len(line) for line in asked])
        return torch.cat([ids_BA, ids_BT[:, -written:]], 1), torch.cat([mask_BA, mask_BT[:, -written:]], 1)
