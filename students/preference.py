"""Learning from pairs of the student's own answers of which a teacher says which is better, by TRL's DPO trainer.

The better answer is learnt outright beside, at a tenth of the weight: the likelihood of both may fall otherwise, and a
small student forgets how to speak.
Source: Rafailov et al. 2023, arXiv:2305.18290; Pang et al. 2024, arXiv:2404.19733 (the second term).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import DPOConfig, DPOTrainer

from ..data.errors import NotEnoughData
from .batches import fitted, render
from .checkpoints import last_checkpoint
from .sft import Pupil, Seam, Show, Steps, settings
from .tokenizer import answer_mark, turn_end

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Ranked:
    """Two answers of a student to an input, as a teacher ranked them."""

    input: str
    chosen: str
    rejected: str


def encode_pairs(pairs: Sequence[Ranked], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
    """Pairs as tokens: prompt_ids, chosen_ids, rejected_ids, the answers with their end.

    A prompt that is too long loses its end, not its turn marks; an answer that does not fit leaves the pair out.

    Raises:
        NotEnoughData: none fits.
    """
    from datasets import Dataset

    end, closing = [turn_end(tokenizer)], answer_mark(tokenizer)

    def ids(texts: list[str]) -> list[list[int]]:
        read: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return read

    columns = zip(
        ids(render(tokenizer, [pair.input for pair in pairs])),
        ids([pair.chosen for pair in pairs]),
        ids([pair.rejected for pair in pairs]),
        strict=True,
    )
    rows = []
    for prompt, chosen, rejected in columns:
        if prompt := fitted(prompt, max_length - max(len(chosen), len(rejected)) - 1, closing):
            rows.append({"prompt_ids": prompt, "chosen_ids": [*chosen, *end], "rejected_ids": [*rejected, *end]})
    if not rows:
        raise NotEnoughData(f"train: no pair fits into max_length = {max_length} tokens; raise train.max_length")
    return Dataset.from_list(rows)


def learn_preferences(
    pupil: Pupil, pairs: Dataset, validation: Dataset, work: Path, seed: int, show: Show
) -> dict[str, int | None]:
    """Learn from encoded pairs, going on from the last checkpoint in ``work``.

    Returns:
        As `learn_rows`.
    """
    from datasets import disable_progress_bars

    os.environ.setdefault("TQDM_DISABLE", "1")  # the trainer draws bars of its own otherwise, in two ways
    disable_progress_bars()
    args = DPOConfig(
        **settings(pupil.recipe.train, work, seed, len(pairs)),
        max_length=None,
        precompute_ref_log_probs=True,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 0.1],
    )
    trainer = _PreferenceTrainer(
        model=pupil.learning,
        args=args,
        train_dataset=pairs,
        processing_class=pupil.tokenizer,
        callbacks=[Steps(show)],
    )
    return trainer.learn(last_checkpoint(work))


class _PreferenceTrainer(Seam, DPOTrainer):  # type: ignore[misc]
    """The seam: pairs are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset
