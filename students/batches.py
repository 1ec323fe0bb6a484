"""From rows to tensors: tokens once, noise anew in every epoch, each draw decided by seed, epoch and row.

Shapes: B rows, T positions (prompt and answer, padded on the left), C answer positions kept, L labels, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import Sampler

from ..data.errors import BadInput
from ..data.rows import Example, TopTokens
from .tokenizer import answer_ids, answer_mark, merge_parents, only_reads, turn_end

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

IGNORED = -100

Side = Literal["left", "right"]


def render(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[str]:
    """The prompts as the model will meet them in use: each input as the user's turn, then the answer's place.

    An encoder has no turns, and its tokenizer puts the marks around a text itself.
    """
    if only_reads(tokenizer):
        return list(texts)
    rendered: list[str] = tokenizer.apply_chat_template(
        [[{"role": "user", "content": text}] for text in texts], add_generation_prompt=True, tokenize=False
    )
    return rendered


def encode(
    rows: Callable[[], Iterator[Example]],
    tokenizer: PreTrainedTokenizerFast,
    labels: Sequence[str],
    *,
    soft: bool,
    max_length: int,
    cache: Path,
    states: Callable[[Sequence[str]], list[list[float]]] | None = None,
    topk: bool = False,
) -> Dataset:
    """Rows as tokens, in a file that is mapped into memory: prompt, answer, probs [L], state [D], top_ids and top_logps
    [T * K] for the T tokens before the end; empty where there is none.

    A training that goes on after a kill finds the file as it was and does not read the rows again.
    An output that is one of the labels is answered with its token, or with its number by a model that only reads; any
    other with its text. A prompt that is too long loses its end, not its turn marks; an answer that does not fit leaves
    the row out.

    Args:
        states: of inputs, the hidden state that the student is to have before it answers.
        topk: answer in the teacher's own tokens, where the row has them.

    Raises:
        BadInput: a row's tokens are none of this tokenizer's, or their log-probabilities no numbers.
    """
    import pyarrow as pa
    from datasets import Dataset

    tokens = dict(zip(labels, answer_ids(tokenizer, labels), strict=True))
    marked = only_reads(tokenizer)
    end, closing = [] if marked else [turn_end(tokenizer)], answer_mark(tokenizer)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        read: list[list[int]] = tokenizer(texts, add_special_tokens=marked)["input_ids"] if texts else []
        return read

    def encoded(some: Sequence[Example]) -> Iterator[dict[str, Any]]:
        prompts = ids(render(tokenizer, [row.input for row in some]))
        written = iter(ids([row.output for row in some if row.output not in tokens]))
        known = states([row.input for row in some]) if states else [[]] * len(some)
        for row, prompt, state in zip(some, prompts, known, strict=True):
            answer = [tokens[row.output], *end] if row.output in tokens else [*next(written), *end]
            said = row.tokens if topk else None
            if said is not None:
                _check_tokens(row.id, said, len(tokenizer))
                answer = [*said.ids.tolist(), *end]
            prompt = fitted(prompt, max_length - len(answer), closing)
            if not prompt:
                continue
            probs = [row.probs[label] for label in labels] if soft and row.probs and labels else []
            best = {"top_ids": said.top_ids, "top_logps": said.logprobs} if said else {"top_ids": [], "top_logps": []}
            yield {"prompt": prompt, "answer": answer, "probs": probs, "state": state, **best}

    integers, numbers = pa.list_(pa.int32()), pa.list_(pa.float32())
    lists = {"prompt": integers, "answer": integers, "probs": numbers, "state": numbers, "top_ids": integers}
    schema = pa.schema([*lists.items(), ("top_logps", pa.list_(pa.float16()))])
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cache.with_suffix(".part")
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            source = rows()
            while some := list(islice(source, 1024)):
                stream.write_batch(pa.RecordBatch.from_pylist(list(encoded(some)), schema))
        unfinished.replace(cache)
    read = Dataset.from_file(str(cache))
    return read.with_format("numpy", columns=["top_ids", "top_logps"], output_all_columns=True) if topk else read


def fitted(prompt: list[int], room: int, closing: Sequence[int]) -> list[int]:
    """A prompt without its end where there is no room for all of it, its closing marks kept; empty where hardly any."""
    if room < len(closing) + 3:
        return []
    return prompt if len(prompt) <= room else [*prompt[: room - len(closing)], *closing]


def _check_tokens(row: str, said: TopTokens, vocabulary: int) -> None:
    if not np.isfinite(said.logprobs).all():
        raise BadInput(f"row {row}: a teacher's log-probability is no number; label again with a fresh ledger")
    if len(said.ids) and max(said.ids.max(), said.top_ids.max()) >= vocabulary:
        raise BadInput(
            f"row {row}: token {max(said.ids.max(), said.top_ids.max())} of the teacher's is none of the student's "
            f"{vocabulary:,}; `topk` needs the teacher's tokenizer"
        )


@dataclass
class Clock:
    """The epoch, shared by the sampler, which is told, and the noise, which needs it."""

    epoch: int = 0


class LengthOrder(Sampler[int]):
    """A new order each epoch in which neighbours have similar lengths, decided by seed and epoch alone.

    Little is spent on padding, and a resumed run meets the same batches.

    Args:
        rows: encoded rows; of their lengths the answer's counts first, because its positions cost a vocabulary each.
    """

    def __init__(self, rows: Dataset, batch: int, seed: int, clock: Clock) -> None:
        self._answers, self._prompts = _lengths(rows, "answer"), _lengths(rows, "prompt")
        self._batch = batch
        self._seed = seed
        self._clock = clock

    def set_epoch(self, epoch: int) -> None:
        self._clock.epoch = epoch

    def __len__(self) -> int:
        return len(self._prompts)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self._seed, self._clock.epoch])
        order = draw.permutation(len(self))
        batches: list[np.ndarray[Any, Any]] = []
        for start in range(0, len(order), self._batch * 20):
            chunk = order[start : start + self._batch * 20]
            chunk = chunk[np.lexsort((self._prompts[chunk], self._answers[chunk]))]
            batches += [chunk[at : at + self._batch] for at in range(0, len(chunk), self._batch)]
        short = [batch for batch in batches if len(batch) < self._batch]  # last, or the others would be cut anew
        full = [batch for batch in batches if len(batch) == self._batch]
        for number in draw.permutation(len(full)):
            yield from full[number].tolist()
        for batch in short:
            yield from batch.tolist()


def _lengths(rows: Dataset, column: str) -> np.ndarray[Any, Any]:
    """Tokens of each row in a column of lists."""
    import pyarrow.compute as pc

    lengths: np.ndarray[Any, Any] = pc.list_value_length(rows.data.column(column)).to_numpy()
    return lengths


class Noise:
    """What a student reads in training is never quite the same twice: words missing, tokens cut in two.

    Cutting a token into what it was merged from is BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267) on the result
    instead of on the way to it, which can be seeded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], share: float) -> None:
        self._labels = set(answer_ids(tokenizer, labels))
        self._parents = merge_parents(tokenizer)
        self._share = share
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._begins = [piece.startswith("Ġ") for piece in pieces]

    def __call__(self, prompt: Sequence[int], answer: Sequence[int], draw: np.random.Generator) -> list[int]:
        """A noisy copy where the answer is a label, else the prompt itself; the turn marks at both ends stay."""
        if answer[0] not in self._labels:
            return list(prompt)
        words = self._words(prompt[1:-1])
        kept = [word for word, chance in zip(words, draw.random(len(words)), strict=True) if chance >= self._share]
        tokens = [token for word in kept or words for token in word]
        cut: list[int] = []
        for token, chance in zip(tokens, draw.random(len(tokens)), strict=True):
            self._cut(token, chance, draw, cut)
        return [prompt[0], *cut, prompt[-1]]

    def _words(self, tokens: Sequence[int]) -> list[list[int]]:
        words: list[list[int]] = []
        for token in tokens:
            if self._begins[token] or not words:
                words.append([])
            words[-1].append(token)
        return words

    def _cut(self, token: int, chance: float, draw: np.random.Generator, out: list[int]) -> None:
        parents = self._parents[token]
        if parents is None or chance >= self._share:
            out.append(token)
            return
        for part in parents:
            self._cut(part, draw.random(), draw, out)


def _rounded(length: int) -> int:
    """Up to the next multiple of eight: every new shape costs the CPU's matrix library a kernel, in time and memory."""
    return -(-length // 8) * 8


class Collator:
    """Batches of encoded rows.

    Args:
        side: where lines are padded. On the left a model is told the positions; on the right it counts them itself,
            because encoders begin at different numbers.

    Returns:
        input_ids, attention_mask, position_ids [B, T]; targets [B, C], `IGNORED` where there is none; probs [B, L],
        state [B, D], top_ids and top_logps [B, C, K], or absent, as position_ids are on the right.
    """

    def __init__(self, pad: int, seed: int, clock: Clock, noise: Noise | None, side: Side = "left") -> None:
        self._pad = pad
        self._left = side == "left"
        self._seed = seed
        self._clock = clock
        self._noise = noise

    @contextmanager
    def noiseless(self) -> Iterator[None]:
        """Within, rows are read as they are."""
        noise, self._noise = self._noise, None
        try:
            yield
        finally:
            self._noise = noise

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prompts = [list(row["prompt"]) for row in rows]
        if self._noise is not None:
            first = hash(tuple(prompts[0])) & 0x7FFFFFFF
            draw = np.random.default_rng([self._seed, self._clock.epoch, first, len(rows)])
            prompts = [self._noise(row["prompt"], row["answer"], draw) for row in rows]
        answers = [list(row["answer"]) for row in rows]
        # The last answer token is predicted, never read.
        lines = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
        longest = _rounded(max(map(len, lines)))
        kept = max(map(len, answers))
        kept = kept if kept <= 2 else min(_rounded(kept), longest)
        input_ids = torch.full((len(rows), longest), self._pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        targets = torch.full((len(rows), kept), IGNORED)
        for number, (line, answer) in enumerate(zip(lines, answers, strict=True)):
            at = longest - len(line) if self._left else 0
            input_ids[number, at : at + len(line)] = torch.tensor(line)
            mask[number, at : at + len(line)] = 1
            targets[number, kept - len(answer) :] = torch.tensor(answer)
        batch = {"input_ids": input_ids, "attention_mask": mask, "targets": targets}
        if self._left:
            batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        for name in ("probs", "state"):
            if all(row[name] for row in rows):
                batch[name] = torch.tensor([row[name] for row in rows])
        if any(len(row["top_ids"]) for row in rows):
            batch["top_ids"], batch["top_logps"] = _alternatives(rows, targets)
        return batch


def _alternatives(rows: Sequence[dict[str, Any]], targets_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's tokens at every answer position, [B, C, K], and their log-probabilities.

    Where it told none, as at the end token, the target alone is right.
    """
    kept = max(len(row["top_ids"]) // (len(row["answer"]) - 1) for row in rows if len(row["top_ids"]))
    ids = targets_BC.clamp(min=0)[..., None].repeat(1, 1, kept)
    logps = torch.full(ids.shape, -torch.inf)
    logps[..., 0] = 0.0
    for number, row in enumerate(rows):
        told = len(row["answer"]) - 1
        if len(row["top_ids"]):
            start, width = ids.shape[1] - told - 1, len(row["top_ids"]) // told
            ids[number, start:-1, :width] = torch.from_numpy(row["top_ids"].reshape(told, width)).long()
            logps[number, start:-1, :width] = torch.from_numpy(row["top_logps"].reshape(told, width)).float()
    return ids, logps
