"""From a prompt's messages to a model's tokens: what a local model reads, whatever engine runs it.

Choices are spelt here too, as they continue the prompt. Encoding each behind the whole prompt was weighed and left out:
for 77 labels behind 171 tokens that takes 29 ms, and half a millisecond where only what follows the last special token
is encoded, once for all prompts that end alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.fingerprint import digest
from ..data.rows import Answer, Failed, Prompt, message_dicts
from ..data.teacher import Sampling
from .loading import one_line

_HERE = "GoesOnHere"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as tokens."""

    prompt: Prompt
    text: str
    ids: list[int]
    choices: list[list[int]]
    """Tokens of each choice, in the order of the prompt's."""
    ends: list[int]
    """Tokens that end an open turn, beside those that end any answer."""

    @property
    def seed(self) -> int:
        """Sixty bits that decide the draws: of what the model reads and of the sample's index, and of nothing else."""
        return int(digest(f"{self.prompt.sample}\0{self.text}".encode())[:15], 16)

    @property
    def by_one_token(self) -> bool:
        """Every choice is a single token, whose probability alone decides."""
        return all(len(ids) == 1 for ids in self.choices)

    @property
    def longest_choice(self) -> int:
        """Tokens of the longest choice, with the end token after it where that counts."""
        return max(map(len, self.choices)) + (0 if self.by_one_token else 1)

    def scored(self, logps: list[float]) -> Answer:
        """The likeliest choice, of equals the first.

        Args:
            logps: natural log-probability of each choice, normalised.
        """
        scores = dict(zip(self.prompt.choices, logps, strict=True))
        best = max(range(len(logps)), key=logps.__getitem__)
        said = len(self.choices[best])
        return Answer(self.prompt.id, self.prompt.choices[best], "stop", len(self.ids), said, scores=scores)


class Renderer:
    """The tokenizer of one model.

    Args:
        context: most tokens that prompt and answer may have together; None for no limit.
        label_tokens: labels that are one token each, what a student was trained to answer with.
    """

    def __init__(self, tokenizer: Any, context: int | None, label_tokens: Mapping[str, int] | None) -> None:
        self.tokenizer = tokenizer
        self._context = context
        self._label_tokens = label_tokens or {}
        self._anchor = self._encode("a")
        self._texts: dict[int, str] = {}
        self._spelt: tuple[object, list[list[int]]] = (None, [])  # the last choices, which are the next ones too

    def render(self, prompt: Prompt, sampling: Sampling) -> Rendered | Failed:
        """The prompt as tokens, or why it has none that fit."""
        from jinja2 import TemplateError

        try:
            text, ids, ends = self._read(prompt)
        except (TemplateError, TypeError, ValueError) as error:  # also text that is not Unicode
            return Failed(prompt.id, "template", f"the prompt cannot be rendered: {one_line(error)}")
        row = Rendered(prompt, text, ids, self._spell(text, prompt.choices) if prompt.choices else [], ends)
        room = row.longest_choice if row.choices else sampling.max_tokens
        if not ids:
            return Failed(prompt.id, "empty", "the prompt has no tokens")
        if self._context is not None and len(ids) + room > self._context:
            found = f"{len(ids)} tokens of prompt and {room} of answer do not fit the context of {self._context}"
            return Failed(prompt.id, "too_long", f"{found}; shorten the prompt or lower max_tokens")
        return row

    def written(self, ids: list[int]) -> str:
        """The text of an answer, without the end token and outer space."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def token_text(self, token: int) -> str:
        """What a token writes in the middle of a text; a piece of a character is spelt as the tokenizer spells it."""
        if token not in self._texts:
            before, text = (
                self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                for ids in (self._anchor, [*self._anchor, token])
            )
            whole = "\ufffd" not in text
            self._texts[token] = text[len(before) :] if whole else self.tokenizer.convert_ids_to_tokens(token)
        return self._texts[token]

    def _read(self, prompt: Prompt) -> tuple[str, list[int], list[int]]:
        """The text, its tokens, and those that end an open turn."""
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in prompt.messages)
            return text, self._encode(text, special=True), []
        messages = message_dicts(prompt.messages)
        if prompt.open:
            return self._read_open(messages)
        text = self._written_by_template(messages)
        return text, self._encode(text), []  # the template has written the special tokens

    def _read_open(self, messages: list[dict[str, Any]]) -> tuple[str, list[int], list[int]]:
        """What stands before the rest of the last message, and the token that the template ends it with.

        `continue_final_message` was weighed: of a turn without text it drops the line ends it should begin with.
        """
        begun = messages[-1]["content"]
        messages[-1]["content"] = begun + _HERE
        text, found, after = self._written_by_template(messages).rpartition(_HERE)
        if not found:
            raise ValueError("the chat template leaves out the message to go on with")
        text = text if begun else text.rstrip(" ")  # a space before a word is part of the word's token
        added = self.tokenizer.get_added_vocab().values()
        return text, self._encode(text), [token for token in self._encode(after.lstrip())[:1] if token in added]

    def _written_by_template(self, messages: list[dict[str, Any]]) -> str:
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _spell(self, text: str, choices: tuple[str, ...]) -> list[list[int]]:
        """Tokens of each choice as they continue the prompt, or by themselves where they would merge with it."""
        if all(choice in self._label_tokens for choice in choices):
            return [[self._label_tokens[choice]] for choice in choices]
        tail = text[max([0, *(text.rfind(token) for token in self.tokenizer.all_special_tokens)]) :]
        if self._spelt[0] != (tail, choices):  # nothing before the last special token has a say in what follows
            before = self._encode(tail)
            whole = [self._encode(tail + choice) for choice in choices]
            self._spelt = (
                (tail, choices),
                [
                    ids[len(before) :] if ids[: len(before)] == before else self._encode(choice)
                    for ids, choice in zip(whole, choices, strict=True)
                ],
            )
        return self._spelt[1]


def stop_tokens(configured: int | list[int] | None, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the generation config's and the tokenizer's."""
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*several, tokenizer.eos_token_id] if token is not None})
