"""Tasks as strategies: each makes one of our rows of another, or says why not.

A strategy is a coroutine function for one row, so that a stage puts its own window around it (`arriving` is one).
What writes draws from a seed and the row's id; what labels or judges asks for the first draw, which every run shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...data.errors import BadInput
from ...data.fingerprint import fraction, row_id
from ...data.rows import Example, Failed, Rejected, Source
from ...data.sides import Split, side_of
from ...data.teacher import Sampling, Teacher
from .library import EvolInstruct, GenerateTextClassificationData, Magpie, TextClassification, UltraFeedback
from .llm import TeacherLLM
from .task import Candidate, Output, Strategy, ready

_ABSTAINED = "Unclassified"


def evolve(teacher: Teacher, sampling: Sampling, *, evolutions: int = 1, seed: int = 0) -> Strategy[Source, Source]:
    """EvolInstruct: an input made harder, deeper or rarer; an output is not carried over, for it may be wrong now.

    Args:
        evolutions: rewritings one after the other, each a request.

    Source: Xu et al. 2023, arXiv:2304.12244.
    """
    run = ready(EvolInstruct(llm=_llm(teacher, sampling), num_evolutions=evolutions))

    async def work(source: Source) -> Source | Rejected | Failed:
        name = row_id("evolve", str(seed), str(evolutions), source.id)
        done = await run(Candidate(name, {"instruction": source.input}, _seed(name)))
        if not isinstance(done, Output):
            return done
        return replace(source, id=name, input=done.rows[0]["evolved_instruction"], origin="generated", output=None)

    return work


def write_labelled(
    teacher: Teacher,
    sampling: Sampling,
    *,
    instruction: str,
    labels: Mapping[str, str],
    language: str = "English",
    seed: int = 0,
) -> Strategy[Source, Example]:
    """GenerateTextClassificationData: a new input with its label, on the side of the source it must differ from.

    Args:
        instruction: the task, as a user would put it.
        labels: what an output may be, with its meaning.

    Source: Wang et al. 2024, arXiv:2401.00368.
    """
    schema = _object({"input_text": {"type": "string"}, "label": _one_of(labels), "misleading_label": _one_of(labels)})
    run = ready(
        GenerateTextClassificationData(
            llm=_llm(teacher, sampling, schema),
            language=language,
            add_raw_input=False,  # it would be drawn anew, and be another than the one sent
        )
    )
    listed = "\n".join(f"- {label}: {meaning}" if meaning else f"- {label}" for label, meaning in labels.items())

    async def work(source: Source) -> Example | Rejected | Failed:
        name = row_id("write_labelled", str(seed), source.id)
        known = f"A text that exists already, and that yours must differ from:\n{source.input}"
        task = f"{instruction}\nThe labels are:\n{listed}\n{known}"
        done = await run(Candidate(name, {"task": task}, _seed(name)))
        if not isinstance(done, Output):
            return done
        text, label = done.rows[0]["input_text"], done.rows[0]["label"]
        if not isinstance(text, str) or label not in list(labels):
            return Rejected(name, "not_a_label", f"{label}: {text}"[:200])
        return Example(name, text, label, source.root, source.side, "generated")

    return work


def magpie(
    teacher: Teacher, sampling: Sampling, *, system: str, split: Split, gold: bool, seed: int = 0
) -> Strategy[int, Source]:
    """Magpie: input number n, from nothing but a system prompt and a user's turn left open; a root of its own.

    Args:
        system: what the assistant is said to be; empty for no system prompt.
        split: shares of the sides that roots go to.
        gold: a gold test exists, as `side_of` has it.

    Raises:
        BadInput: a temperature of 0.

    Source: Xu et al. 2024, arXiv:2406.08464.
    """
    if not sampling.temperature:
        raise BadInput("magpie: temperature = 0 writes the same input for every candidate; set one above 0")
    run = ready(Magpie(llm=_llm(teacher, sampling), only_instruction=True))
    first = _seed(row_id("magpie", str(seed)))

    async def work(number: int) -> Source | Rejected | Failed:
        name = row_id("magpie", str(seed), system, str(number))
        columns = {"system_prompt": system} if system else {}
        done = await run(Candidate(name, columns, (first + number) % 2**31))
        if not isinstance(done, Output):
            return done
        text = done.rows[0]["instruction"].strip()
        return Source(name, text, name, side_of(name, split, gold=gold), "generated")

    return work


def classify(
    teacher: Teacher, sampling: Sampling, *, labels: Mapping[str, str], context: str
) -> Strategy[Source, Example]:
    """TextClassification: an input gets one of the labels; a teacher that cannot decide says so, and the row goes.

    Args:
        labels: what an output may be, with its meaning.
        context: the question that the label answers.
    """
    schema = _object({"labels": _one_of([*labels, _ABSTAINED])})
    run = ready(
        TextClassification(
            llm=_llm(teacher, sampling, schema),
            available_labels=dict(labels),
            context=context,
            default_label=_ABSTAINED,
        )
    )

    async def work(source: Source) -> Example | Rejected | Failed:
        done = await run(Candidate(source.id, {"text": source.input}))
        if not isinstance(done, Output):
            return done
        label = done.rows[0]["labels"]
        return Example(source.id, source.input, label, source.root, source.side, source.origin)

    return work


def best_rated(teacher: Teacher, sampling: Sampling, *, least: int = 1) -> Strategy[Sequence[Example], Example]:
    """UltraFeedback: of several outputs for one input the one rated best, of equals the first; one alone is a filter.

    Args:
        least: rating from 1 to 5 that the best must have.

    Source: Cui et al. 2023, arXiv:2310.01377 (the aspect `overall-rating` is distilabel's).
    """
    run = ready(UltraFeedback(llm=_llm(teacher, sampling)))

    async def work(rivals: Sequence[Example]) -> Example | Rejected | Failed:
        first = rivals[0]
        columns = {"instruction": first.input, "generations": [rival.output for rival in rivals]}
        done = await run(Candidate(first.id, columns))
        if not isinstance(done, Output):
            return done
        ratings, rationales = done.rows[0]["ratings"], done.rows[0]["rationales"]
        best = max(range(len(rivals)), key=ratings.__getitem__)
        if ratings[best] < least:
            return Rejected(first.id, "low_rating", f"{ratings[best]}: {rationales[best]}"[:200])
        return rivals[best]

    return work


def _llm(teacher: Teacher, sampling: Sampling, schema: Mapping[str, object] | None = None) -> TeacherLLM:
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_new_tokens": sampling.max_tokens}
    structured = {"schema": schema} if schema else None
    return TeacherLLM(teacher=teacher, generation_kwargs=given, structured_output=structured)


def _object(properties: Mapping[str, object]) -> dict[str, object]:
    """JSON Schema of an object with exactly these properties, the only kind that every server can enforce."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _one_of(labels: Mapping[str, str] | Sequence[str]) -> dict[str, object]:
    return {"type": "string", "enum": list(labels)}


def _seed(name: str) -> int:
    """From an id to a seed below 2**31, the largest that every server takes."""
    return int(fraction(name) * 2**31)
