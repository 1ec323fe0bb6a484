"""The rows that flow through a run. Small, frozen, with named fields; a row that went wrong is a row too.

A `Prompt` is asked, an `Answer` or a `Failed` comes back, an `Example` is what a student learns or is tested on, and a
`Rejected` is a row that somebody decided against, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Role = Literal["system", "user", "assistant"]
Side = Literal["train", "validation", "calibration", "test"]
Origin = Literal["unlabeled", "generated", "gold", "seed"]

SIDES: tuple[Side, ...] = ("train", "validation", "calibration", "test")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked, and what form the answer must take."""

    id: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    """Closed labels: the answer is one of these strings. Empty: free text."""
    schema: str = ""
    """JSON Schema of the answer, as canonical JSON text. Empty: none."""
    sample: int = 0
    """Which draw for this prompt: 0 is the first, retries and second opinions follow."""
    open: bool = False
    """The last message is not finished: the model goes on with it, whoever speaks, to the end of that turn."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer with its alternatives; log-probabilities are natural and not renormalised."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    id: int = -1
    """The token in the model's own vocabulary; -1 where the model does not say."""
    top_ids: tuple[int, ...] = ()
    """The alternatives, in the order of `top`; empty where the model does not say."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, as it said it; parsing comes later and may change without asking again."""

    prompt_id: str
    text: str
    finish_reason: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: tuple[Token, ...] = ()
    """Per output token, where log-probabilities were asked for and given."""
    scores: Mapping[str, float] | None = None
    """Log-probability of every choice, exact, from a model that scores them; sums to 1 after exp."""
    from_ledger: bool = False
    """True where this answer was already paid for."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that could not be asked: the class of the failure and what the other side said."""

    id: str
    kind: str
    message: str
    billed: bool = False
    """The other side may charge for it all the same."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was decided against."""

    id: str
    reason: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """One input before anybody answered it: from a user's file, a seed, or a teacher that wrote it."""

    id: str
    input: str
    root: str
    """What it descends from (seed, document, group). A root and all that comes from it stay on one side."""
    side: Side
    origin: Origin
    output: str | None = None
    """The answer where one came with it: gold, a seed's, or the label a teacher was told to write for."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The user's own columns by which scores are told apart; empty where none were asked for."""
    strategy: str = ""
    """How a teacher came to write it; empty for what nobody wrote."""
    personal: tuple[str, ...] = ()
    """Kinds of personal data in whose place there are placeholders now."""


@dataclass(frozen=True, slots=True, eq=False)
class TopTokens:
    """An answer in the teacher's own tokens, without the end token, with its K likeliest alternatives at each of T."""

    ids: npt.NDArray[np.int32]
    """[T]"""
    top_ids: npt.NDArray[np.int32]
    """[T * K], those of one position side by side; the token itself is always among them."""
    logprobs: npt.NDArray[np.float16]
    """[T * K], natural, at temperature 1, not renormalised."""


@dataclass(frozen=True, slots=True)
class Example:
    """An input with its answer: what a student learns from."""

    id: str
    input: str
    output: str
    root: str
    side: Side
    origin: Origin
    probs: Mapping[str, float] | None = None
    """Teacher's probability of each label, where it gave more than one answer; sums to 1."""
    evidence: str = "hard"
    """Where `probs` come from: `scored`, `logprobs`, `samples`, or `hard` where there are none."""
    strategy: str = ""
    """How a teacher came to write the input; empty where nobody wrote it."""
    tokens: TopTokens | None = None
    """The output as the teacher wrote it, where it told its tokens."""
    agreement: float | None = None
    """Share of the answers asked for that say this output, where there are several; one that could not be used says
    nothing. Labels and JSON objects say the same where they are equal, free text where its words are."""
    outvoted: str | None = None
    """What fewer of the answers say, the most frequent of it; where there is such."""


def message_dicts(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages in the form that chat templates and endpoints read."""
    return [{"role": message.role, "content": message.content} for message in messages]
