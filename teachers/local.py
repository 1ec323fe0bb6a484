"""A causal language model in memory: many prompts in one pass, written or scored, each as if it were alone.

`model.generate` was weighed and left out: it has one random state per batch, so the company that a prompt happens to be
in would change its answer. In the loop here every row draws from a generator of its own, seeded by what it was asked.
Closed labels are not sampled at all: every choice gets its exact probability, which is cheaper and says more.
A beginning that all prompts of a batch share (the instruction, as a rule) is read once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.rows import Answer, Failed, Prompt, Token
from ..data.teacher import Sampling
from .loading import chosen_device, load_model
from .rendering import Rendered, Renderer, stop_tokens

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST_SHARED = 16  # tokens; below this, reading a beginning once costs more than it saves
_FEW = 64  # tokens that nearly always hold all of top_p
READ_TOGETHER = 64  # rows of like length that a CPU reads at once: more leave its caches, at half the speed (measured)


class LocalModel:
    """A causal language model in memory: batches of prompts in, answers out, and nothing asynchronous.

    Shapes: B rows, T new positions, S positions seen so far, V vocabulary, N tokens written, K alternatives.

    Raises:
        BadInput: it cannot be loaded, or is of a kind that cannot be batched here.
        TeacherUnreachable: the hub does not answer.
    """

    def __init__(self, source: Path | str, revision: str, device: str | None, batch: int, where: str) -> None:
        self.device = chosen_device(device, where)
        self.batch = batch
        self.model, self.tokenizer = load_model(source, revision, self.device, where)
        config = self.model.config
        context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        self.renderer = Renderer(self.tokenizer, context, getattr(config, "label_token_ids", None))
        self.stops = stop_tokens(self.model.generation_config.eos_token_id, self.tokenizer)

    def answer(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, abandoned: Callable[[], bool] = lambda: False
    ) -> list[Answer | Failed]:
        """One answer per prompt, in order; all have the same choices or none any, all leave the same turn open or none.

        Args:
            abandoned: asked between tokens; True ends the work early, with answers that nobody reads.
        """
        import torch

        rows = [self.renderer.render(prompt, sampling) for prompt in prompts]
        good = [row for row in rows if isinstance(row, Rendered)]
        said: list[Answer] = []
        with torch.inference_mode():
            if good:
                said = self._score(good) if good[0].prompt.choices else self._write(good, sampling, abandoned)
        answers = iter(said)
        return [row if isinstance(row, Failed) else next(answers) for row in rows]

    def _score(self, rows: list[Rendered]) -> list[Answer]:
        """Every row's choices, in order; rows of like length are read together."""
        return by_length(rows, READ_TOGETHER if self.device.type == "cpu" else len(rows), self._score_together)

    def _score_together(self, rows: list[Rendered]) -> list[Answer]:
        """The probability of every choice, exactly: of its tokens and of stopping after them.

        Where each choice is a single token, that token's probability alone decides, and one forward pass is all.
        Stopping means any of the model's end tokens. Scores are natural logs, normalised over the choices.
        """
        import torch

        logits_BV, cache, seen_BS = self._read([row.ids for row in rows])
        first_BV = logits_BV.log_softmax(-1)
        scores = torch.zeros(len(rows), len(rows[0].choices), dtype=torch.float64, device=self.device)
        pairs: list[tuple[int, int]] = []
        for i, row in enumerate(rows):
            if row.by_one_token:
                scores[i] = first_BV[i, [ids[0] for ids in row.choices]].double()
            else:
                pairs += [(i, j) for j in range(len(row.choices))]
        pairs.sort(key=lambda pair: len(rows[pair[0]].choices[pair[1]]))
        for start in range(0, len(pairs), self.batch):
            some = pairs[start : start + self.batch]
            i_B = torch.tensor([i for i, _ in some], device=self.device)
            j_B = torch.tensor([j for _, j in some], device=self.device)
            spelt = [rows[i].choices[j] for i, j in some]
            scores[i_B, j_B] = self._follow(spelt, first_BV[i_B], _picked(cache, i_B), seen_BS[i_B])
        normalised = scores.log_softmax(-1).tolist()
        return [row.scored(values) for row, values in zip(rows, normalised, strict=True)]

    def _follow(self, spelt: list[list[int]], first_BV: Tensor, cache: Any, seen_BS: Tensor) -> Tensor:
        """Log-probability that each row goes on with these tokens and stops, in float64; shape (B,)."""
        import torch

        length_B = torch.tensor([len(ids) for ids in spelt], device=self.device)
        width = int(length_B.max())
        ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in spelt], device=self.device)
        real_BT = torch.arange(width, device=self.device) < length_B[:, None]
        seen_BS = torch.cat([seen_BS, real_BT.long()], dim=1)
        after = self._forward(ids_BT, seen_BS, cache, keep=width).log_softmax(-1)
        logps = torch.cat([first_BV[:, None], after], dim=1)  # position t has what follows t tokens
        token_BT = logps[:, :-1].gather(2, ids_BT[..., None]).squeeze(2).double()
        total_B = (token_BT * real_BT).sum(1)
        if self.stops:
            end_BV = logps[torch.arange(len(spelt), device=self.device), length_B]
            total_B += end_BV[:, self.stops].double().logsumexp(-1)
        return total_B

    def _write(self, rows: list[Rendered], sampling: Sampling, abandoned: Callable[[], bool]) -> list[Answer]:
        """Free text. A row's draws depend on its rendered prompt and its sample index, never on its batch."""
        import torch

        most, width = sampling.max_tokens, sampling.logprobs + 1
        stops = torch.tensor([*self.stops, *rows[0].ends], dtype=torch.long, device=self.device)
        ids_BNK = torch.full((len(rows), most, width), -1, device=self.device)  # the token, then its alternatives
        logps_BNK = torch.zeros((len(rows), most, width), device=self.device)
        luck_BN = self._luck(rows, most) if sampling.temperature else None
        logits_BV, cache, seen_BS = self._read([row.ids for row in rows])
        row_B = torch.arange(len(rows), device=self.device)
        going_B = torch.ones_like(row_B, dtype=torch.bool)
        for step in range(most):
            token_B = _draw(logits_BV, sampling, luck_BN[row_B, step] if luck_BN is not None else None)
            ids_BK, logps_BK = _with_alternatives(token_B, logits_BV, sampling.logprobs)
            ids_BNK[row_B[going_B], step] = ids_BK[going_B]
            if logps_BK is not None:
                logps_BNK[row_B[going_B], step] = logps_BK[going_B]
            going_B &= ~torch.isin(token_B, stops)
            left = int(going_B.sum())
            if left == 0 or step + 1 == most or abandoned():
                break
            if 2 * left < len(row_B):
                keep = going_B.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                row_B, token_B, seen_BS, going_B = row_B[keep], token_B[keep], seen_BS[keep], going_B[keep]
            seen_BS = torch.cat([seen_BS, torch.ones_like(token_B)[:, None]], dim=1)
            logits_BV = self._forward(token_B[:, None], seen_BS, cache)[:, -1]
        return self._written(rows, ids_BNK.tolist(), logps_BNK.tolist(), sampling.logprobs)

    def _luck(self, rows: list[Rendered], most: int) -> Tensor:
        """Numbers in [0, 1) that decide each row's draws; shape (B, N)."""
        import torch

        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        return torch.stack([torch.rand(most, generator=g, dtype=torch.float64) for g in generators]).to(self.device)

    def _read(self, prompts: list[list[int]]) -> tuple[Tensor, Any, Tensor]:
        """Prompts side by side: logits of what comes next, the cache, and which positions are real.

        Padding lies between the shared beginning and the rest; masked, and not counted in the positions.
        """
        import torch
        import transformers as hf

        cache = hf.DynamicCache(config=self.model.config)
        shared = _shared_beginning(prompts)
        if len(prompts) == 1 or shared < _SHORTEST_SHARED or not _is_plain(cache):
            shared = 0
        longest = max(map(len, prompts))
        seen_BS = torch.ones((len(prompts), longest), dtype=torch.long)
        ids_BT = torch.zeros((len(prompts), longest - shared), dtype=torch.long)
        for i, ids in enumerate(prompts):
            seen_BS[i, shared : shared + longest - len(ids)] = 0
            ids_BT[i, longest - len(ids) :] = torch.tensor(ids[shared:])
        seen_BS, ids_BT = seen_BS.to(self.device), ids_BT.to(self.device)
        if shared:
            beginning = torch.tensor([prompts[0][:shared]], device=self.device)
            self._forward(beginning, torch.ones_like(beginning), cache)
            cache.batch_repeat_interleave(len(prompts))
        return self._forward(ids_BT, seen_BS, cache)[:, -1], cache, seen_BS

    def _forward(self, ids_BT: Tensor, seen_BS: Tensor, cache: Any, keep: int = 1) -> Tensor:
        """Logits after the last ``keep`` positions, in float32."""
        position_BS = (seen_BS.cumsum(-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids_BT,
            attention_mask=seen_BS,
            position_ids=position_BS[:, -ids_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits.float()

    def _written(
        self, rows: list[Rendered], ids: list[list[list[int]]], logps: list[list[list[float]]], alternatives: int
    ) -> list[Answer]:
        answers = []
        for row, row_ids, row_logps in zip(rows, ids, logps, strict=True):
            written = [token[0] for token in row_ids if token[0] >= 0]
            stopped = bool(written) and written[-1] in (*self.stops, *row.ends)
            said = written[:-1] if stopped else written
            text = self.renderer.written(said)
            tokens = self._tokens(row_ids[: len(said)], row_logps) if alternatives else ()
            reason = "stop" if stopped else "length"
            answers.append(Answer(row.prompt.id, text, reason, len(row.ids), len(written), tokens))
        return answers

    def _tokens(self, ids: list[list[int]], logps: list[list[float]]) -> tuple[Token, ...]:
        """What was said, without the end token, with its alternatives."""
        distinct = sorted({token for step in ids for token in step})
        text = {token: self.tokenizer.decode([token]) for token in distinct}
        return tuple(
            Token(
                text[step[0]],
                values[0],
                tuple((text[token], value) for token, value in zip(step[1:], values[1:], strict=True)),
                step[0],
                tuple(step[1:]),
            )
            for step, values in zip(ids, logps, strict=False)
        )


def by_length(rows: list[Rendered], most: int, answered: Callable[[list[Rendered]], list[Answer]]) -> list[Answer]:
    """Answers in order, of rows that were read with those of like length, so many at once at most."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    said: dict[int, Answer] = {}
    for start in range(0, len(order), most):
        some = order[start : start + most]
        said.update(zip(some, answered([rows[i] for i in some]), strict=True))
    return [said[i] for i in range(len(rows))]


def _draw(logits_BV: Tensor, sampling: Sampling, luck_B: Tensor | None) -> Tensor:
    """The next token of each row: the likeliest, or the one at ``luck_B`` of the cumulated probability.

    Probabilities are cumulated in the vocabulary's order and in float64, so that a last bit that differs between
    batches moves hardly any draw.
    """
    import torch

    if luck_B is None:
        return logits_BV.argmax(-1)
    probs_BV = (logits_BV / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        for likeliest in (_FEW, logits_BV.shape[1]):  # sorting the whole vocabulary takes longer than a small model
            ordered = probs_BV.topk(min(likeliest, logits_BV.shape[1]), dim=-1).values
            if bool((ordered.double().sum(-1) >= sampling.top_p).all()):
                break
        beyond = ordered.double().cumsum(-1) - ordered >= sampling.top_p
        least_B1 = ordered.masked_fill(beyond, 2.0).amin(-1, keepdim=True)
        probs_BV = probs_BV.masked_fill(probs_BV < least_B1, 0.0)
    mass_BV = probs_BV.double().cumsum(-1)
    found = torch.searchsorted(mass_BV, luck_B[:, None] * mass_BV[:, -1:], right=True)
    return found.squeeze(1).clamp(max=logits_BV.shape[1] - 1)


def _with_alternatives(token_B: Tensor, logits_BV: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """The tokens with their likeliest alternatives behind them, and natural log-probabilities at temperature 1."""
    import torch

    chosen_B1 = token_B[:, None]
    if not count:
        return chosen_B1, None
    logps_BV = logits_BV.log_softmax(-1)
    top = logps_BV.topk(count, dim=-1)
    return torch.cat([chosen_B1, top.indices], 1), torch.cat([logps_BV.gather(1, chosen_B1), top.values], 1)


def _picked(cache: Any, rows: Tensor) -> Any:
    """A cache of some rows, repeated where they are; the layers replace their tensors and leave the original alone."""
    picked = copy.copy(cache)
    picked.layers = [copy.copy(layer) for layer in cache.layers]
    picked.batch_select_indices(rows)
    return picked


def _shared_beginning(prompts: list[list[int]]) -> int:
    """Tokens that all begin with, leaving each at least one of its own."""
    first, last = min(prompts), max(prompts)  # in order, what these two share lies between them too
    pairs = zip(first[:-1], last[:-1], strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)) - 1)


def _is_plain(cache: Any) -> bool:
    """True where every layer attends to all that is unmasked; a sliding window counts padding too."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)
