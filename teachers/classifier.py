"""A model with a head for closed labels, in memory: many prompts in one pass, each as if it were alone.

It writes nothing, so a prompt has to offer choices, and these have to be labels that the head has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.errors import BadInput
from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling
from .loading import chosen_device, load_classifier, positions
from .local import READ_TOGETHER, by_length
from .rendering import Rendered, Renderer

if TYPE_CHECKING:
    from torch import Tensor


class LocalClassifier:
    """The same seam as `LocalModel`: batches of prompts in, answers out, and nothing asynchronous.

    Shapes: B rows, T positions, L labels of the head, C choices of the prompts.

    Raises:
        BadInput: it cannot be loaded.
        TeacherUnreachable: the hub does not answer.
    """

    def __init__(self, source: Path | str, revision: str, device: str | None, batch: int, where: str) -> None:
        self.device = chosen_device(device, where)
        self.batch = batch
        self.model, self.tokenizer = load_classifier(source, revision, self.device, where)
        self._place = f"{where}: {source}"
        self._numbers = {label: number for number, label in self.model.config.id2label.items()}
        # A label takes no position; one more is there for it, because elsewhere it is a token.
        self.renderer = Renderer(self.tokenizer, positions(self.model.config, self.tokenizer) + 1, self._numbers)

    def answer(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, abandoned: Callable[[], bool] = lambda: False
    ) -> list[Answer | Failed]:
        """One answer per prompt, in order; all have the same choices.

        Raises:
            BadInput: they have none, or some that are no labels of the head.
        """
        self._check(prompts[0].choices)
        rows = [self.renderer.render(prompt, sampling) for prompt in prompts]
        good = [row for row in rows if isinstance(row, Rendered)]
        answers = iter(by_length(good, READ_TOGETHER if self.device.type == "cpu" else self.batch, self._choose))
        return [row if isinstance(row, Failed) else next(answers) for row in rows]

    def _check(self, choices: tuple[str, ...]) -> None:
        if not choices:
            raise BadInput(f"{self._place} has a head for labels and writes nothing; ask it for closed labels")
        if unknown := [choice for choice in choices if choice not in self._numbers]:
            found = (
                f"no label '{unknown[0]}'; its {len(self._numbers)} labels begin with {', '.join([*self._numbers][:5])}"
            )
            raise BadInput(f"{self._place} has {found}; ask it for those it was trained on")

    def _choose(self, rows: list[Rendered]) -> list[Answer]:
        """The probability of every choice; scores are natural logs, normalised over the choices."""
        import torch

        chosen = [ids[0] for ids in rows[0].choices]
        with torch.inference_mode():
            logits_BL = self.model(**self._batch([row.ids for row in rows])).logits
            logps_BC = logits_BL[:, chosen].double().log_softmax(-1)
        return [row.scored(logps) for row, logps in zip(rows, logps_BC.tolist(), strict=True)]

    def _batch(self, lines: list[list[int]]) -> dict[str, Tensor]:
        """Lines side by side, padded on the right; without a mask where none is padded, which is read faster."""
        import torch

        longest = max(map(len, lines))
        pad = self.tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([line + [pad] * (longest - len(line)) for line in lines], device=self.device)
        if all(len(line) == longest for line in lines):
            return {"input_ids": ids_BT}
        length_B1 = torch.tensor([[len(line)] for line in lines], device=self.device)
        mask_BT = (torch.arange(longest, device=self.device) < length_B1).long()
        return {"input_ids": ids_BT, "attention_mask": mask_BT}
