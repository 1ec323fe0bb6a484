"""The recipe: one YAML file that says what is learnt, from whom, by which student, and how it is judged.

Every field that changes rows is in the fingerprint of the stage that reads it; nothing here says where a run happens
or how many workers it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..data.config import Recipe, fault, plain, read_yaml, refusal
from ..data.errors import BadInput
from ..data.fingerprint import canonical, fingerprint
from ..data.sides import Split
from ..students.config import (
    CONTROL,
    AnyMethod,
    Dense,
    Encoder,
    Layers,
    OnPolicy,
    Preference,
    Sft,
    StudentRecipe,
    TopK,
)
from ..teachers.config import AnyTeacher
from .config import Budget, CurateStage, EvaluateStage, GenerateStage, LabelStage, Prompts, PublishStage
from .tasks import Classify, Extract, Generate

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What may name a job, and so a folder."""

TAKEN = ("ledger", "stages")
"""Folders of a root that are no job's."""

_OTHER_MODELS = ("teacher", "majority", "neighbour", "linear", "untrained", "few_shot")
"""Models of every report that are no student's."""


_KEYS = "ABCDEFGHIJKLMNOPQRST"
"""One token each in every vocabulary; as many as endpoints give alternatives."""


class JobRecipe(Recipe):
    """The whole file."""

    name: str
    """Names the run's folder under the root."""

    task: Annotated[Classify | Extract | Generate, Field(discriminator="kind")]
    split: Split = Split()
    prompts: Prompts = Prompts()
    teachers: dict[str, AnyTeacher]
    generate: GenerateStage | None = None
    label: LabelStage = LabelStage()
    curate: CurateStage = CurateStage()
    students: dict[str, StudentRecipe] = Field(default_factory=dict)
    student: StudentRecipe | None = Field(None, exclude=True)
    """Short form of `students` for one; empty once it is read."""
    evaluate: EvaluateStage = EvaluateStage()
    publish: PublishStage | None = None
    budget: Budget | None = None
    max_failed: float = Field(0.01, ge=0, le=1)
    """Share of a stage's rows that may fail before the run stops."""

    @model_validator(mode="before")
    @classmethod
    def _one_student_will_do(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "student" in value:
            if "students" in value:
                raise fault("`students` is given too; keep one of the two", "student")
            rest = {key: item for key, item in value.items() if key != "student"}
            return {**rest, "students": {"student": {} if value["student"] is None else value["student"]}}
        return value

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot name a folder; use at most 100 letters, digits, '-', '_' and '.'")
        if name in TAKEN:
            raise ValueError(f"'{name}' is a folder that every root has; choose another name")
        return name

    @field_validator("teachers")
    @classmethod
    def _somebody_teaches(cls, teachers: dict[str, AnyTeacher]) -> dict[str, AnyTeacher]:
        if not teachers:
            raise ValueError("holds no teacher; add one, such as lead: {kind: openai, model: ...}")
        return teachers

    @field_validator("students")
    @classmethod
    def _students_are_nobody_else(cls, students: dict[str, StudentRecipe]) -> dict[str, StudentRecipe]:
        for name in students:
            if name in _OTHER_MODELS:
                raise fault(f"'{name}' is another model of the report; choose another name", name)
        return students

    @field_validator("students")
    @classmethod
    def _controls_are_students_too(cls, students: dict[str, StudentRecipe]) -> dict[str, StudentRecipe]:
        """Behind every student with a control stands that control, trained and judged like any other."""
        found: dict[str, StudentRecipe] = {}
        for name, student in students.items():
            found[name] = student
            if student.control:
                control, dense = CONTROL.format(name), student.counterpart()
                if students.get(control, dense) != dense:
                    raise fault(f"'{control}' is another student of this recipe; rename that one", name, "control")
                found[control] = dense
        return found

    @model_validator(mode="after")
    def _the_parts_fit(self) -> JobRecipe:
        task = self.task
        if task.seeds is None and task.unlabeled is None and self.generate is None:
            raise fault("has neither `seeds` nor `unlabeled`, so there is nothing to learn from; add one", "task")
        if task.unlabeled is None and self.generate is None:
            raise fault("seeds alone are no inputs to label; add a `generate` section, or task.unlabeled", "task")
        if self.generate is not None:
            self._strategies_can_be_followed(self.generate)
        for stage, chosen in (("generate", self.generate), ("label", self.label)):
            if chosen is None:
                continue
            names = ", ".join(self.teachers)
            if chosen.teacher is None and len(self.teachers) > 1:
                raise fault(f"says no `teacher`; choose one of {names}", stage)
            if chosen.teacher is not None and chosen.teacher not in self.teachers:
                raise fault(f"'{chosen.teacher}' is no teacher of this recipe; defined: {names}", stage, "teacher")
        self._keys_serve()
        self._somebody_judges()
        for name, student in self.students.items():
            if isinstance(student.init, Encoder) and not self.labels:
                found = f"an encoder answers with closed labels alone, and the task is of kind '{task.kind}'"
                raise fault(f"{found}; use init: {{kind: dense}}", "students", name, "init")
            if isinstance(student.init, Layers):
                self._can_be_cut(name, student.init.teacher)
            if isinstance(student.init, Dense) and student.init.tokenizer == "teacher":
                self._tells_its_tokens("takes the teacher's tokenizer", "students", name, "init", "tokenizer")
            for method in student.train.method:
                self._can_be_learnt_by(name, student, method)
        self._rows_can_be_judged()
        judged = self.evaluate.student
        if judged is not None and judged not in self.students:
            defined = ", ".join(self.students) or "none"
            raise fault(f"'{judged}' is no student of this recipe; defined: {defined}", "evaluate", "student")
        if self.publish is not None and self.publish.model and not self.students:
            raise fault("names a place for a student, and the recipe has none; add a `student:` section", "publish")
        if self.budget is not None:
            for name, teacher in self.teachers.items():
                if teacher.kind == "openai" and teacher.price is None:
                    raise fault(
                        "has no price, so budget.usd cannot be kept; add price: {input: ..., output: ...} in dollars "
                        "per million tokens, or price: {per_hour: ...}",
                        "teachers",
                        name,
                    )
        return self

    def _strategies_can_be_followed(self, stage: GenerateStage) -> None:
        """Refuse what a strategy needs and the task has not, and a balance that cannot be kept."""
        for place, strategy in enumerate(stage.strategies):
            if strategy.seeded and self.task.seeds is None:
                said = f"{strategy.kind} writes from seeds; add task.seeds, a file of {{input, output?}}"
                raise fault(said, "generate")
            if strategy.kind in ("contrast", "classification-data") and not self.labels:
                said = f"{strategy.kind} needs closed labels, and the task is of kind '{self.task.kind}'; remove it"
                raise fault(said, "generate", "strategies", place)
            if self.balance == "label" and self.labels and not strategy.labelled:
                said = f"{strategy.kind} writes for no label, so rows cannot be balanced by it"
                raise fault(f"{said}; set generate.balance: strategy, or remove it", "generate", "strategies", place)
        known = ["strategy"] + ["label"] * bool(self.labels)
        if self.balance not in ("", *known) and not stage.values_of(self.balance):
            said = f"'{self.balance}' is no attribute that all strategies have, with the same values"
            raise fault(f"{said}; choose {' or '.join(known)}, or give it to all", "generate", "balance")

    @property
    def balance(self) -> str:
        """What written rows are balanced by; empty for nothing."""
        chosen = self.generate.balance if self.generate else None
        return chosen or ("label" if self.labels else "")

    def _can_be_cut(self, student: str, teacher: str) -> None:
        """Refuse a student of which there is nothing to cut it from."""
        place = ("students", student, "init", "teacher")
        if teacher not in self.teachers:
            raise fault(f"'{teacher}' is no teacher of this recipe; defined: {', '.join(self.teachers)}", *place)
        kind = self.teachers[teacher].kind
        if kind not in ("embedded", "transformers"):
            found = f"'{teacher}' is of kind '{kind}', whose weights are not in this process"
            raise fault(f"{found}; name one of kind embedded or transformers, or use init: {{kind: dense}}", *place)

    def _tells_its_tokens(self, said: str, *place: str) -> None:
        kind = self.teachers[self.teacher_of("label")].kind
        if kind not in ("transformers", "vllm"):
            raise fault(f"{said}, and one of kind '{kind}' does not tell its tokens; label with kind vllm", *place)

    def _can_be_learnt_by(self, name: str, student: StudentRecipe, method: AnyMethod) -> None:
        """Refuse a method where nothing is kept to learn from, nobody can be asked, or the student reads otherwise."""
        place, kind = ("students", name, "train", "method"), method.kind
        if isinstance(method, Sft):
            return
        if self.labels:
            found = f"{kind} is for text, and with closed labels `sft` learns the teacher's probabilities already"
            raise fault(f"{found}; use [sft]", *place)
        if isinstance(method, Preference):
            if method.teacher is not None and method.teacher not in self.teachers:
                found = f"'{method.teacher}' is no teacher of this recipe; defined: {', '.join(self.teachers)}"
                raise fault(found, *place)
            if self.evaluate.curve and name == self.judged_student:
                found = "preference is paid for, and would be for every part of evaluate.curve"
                raise fault(f"{found}; remove one of them", *place)
            return
        self._tells_its_tokens(f"{kind} learns the teacher's tokens", *place)
        if isinstance(method, TopK) and not self.label.logprobs:
            raise fault("topk learns from log-probabilities, and none are kept; set label.logprobs = 16", *place)
        teacher = self.teacher_of("label")
        if isinstance(method, OnPolicy) and self.teachers[teacher].kind != "transformers":
            found = f"on_policy reads the teacher beside the student, and '{teacher}' is of kind 'vllm'"
            raise fault(f"{found}, an engine of its own; use kind transformers", *place)
        if isinstance(student.init, Layers) or (isinstance(student.init, Dense) and student.init.tokenizer == "own"):
            found = f"{kind} needs the teacher's tokenizer, and the student has one of its own"
            raise fault(f"{found}; use init: {{kind: dense, tokenizer: teacher}} or {{kind: hub, ...}}", *place)

    def _rows_can_be_judged(self) -> None:
        judge = self.curate.judge
        if judge is not None and judge.teacher not in self.teachers:
            found = f"'{judge.teacher}' is no teacher of this recipe; defined: {', '.join(self.teachers)}"
            raise fault(found, "curate", "judge", "teacher")
        if self.curate.agreement is not None and self.label.samples == 1:
            found = "needs several answers to each row, and label.samples = 1"
            raise fault(f"{found}; set label.samples and label.temperature, or remove it", "curate", "agreement")

    def _somebody_judges(self) -> None:
        judge, wanted = self.evaluate.judge, self.metric == "judge"
        names = ", ".join(self.teachers)
        if wanted and judge is None:
            raise fault(f"says no `judge`, and task.scorer is judge; choose one of {names}", "evaluate")
        if judge is not None and not wanted:
            raise fault("is not asked unless task.scorer is judge; remove it, or set the scorer", "evaluate", "judge")
        if judge is not None and judge not in self.teachers:
            raise fault(f"'{judge}' is no teacher of this recipe; defined: {names}", "evaluate", "judge")
        if wanted and self.evaluate.curve:
            found = "every part of it would be paid for at the judge's, and task.scorer is judge"
            raise fault(f"{found}; remove it, or choose another scorer", "evaluate", "curve")

    def _keys_serve(self) -> None:
        """Refuse keys where they cannot tell anything, or nothing new."""
        if not self.label.keys:
            return
        if not 2 <= len(self.labels) <= len(_KEYS):
            found = f"the task has {len(self.labels) or 'no'} labels"
            raise fault(f"{found}, and keys stand for 2 to {len(_KEYS)} labels; remove it", "label", "keys")
        if self.label.logprobs < len(self.labels):
            found = f"logprobs = {self.label.logprobs} leaves out labels"
            raise fault(f"{found}; set label.logprobs = {len(self.labels)} or more", "label", "keys")
        teacher = self.teachers[self.teacher_of("label")]
        if teacher.kind != "openai":
            raise fault(f"a teacher of kind '{teacher.kind}' does without; remove it", "label", "keys")
        if teacher.choices:
            raise fault(
                "letters are answered, and the teacher's `choices` allow labels only; remove one", "label", "keys"
            )

    def teacher_of(self, stage: Literal["generate", "label"]) -> str:
        """Name of the teacher that a stage asks."""
        chosen = self.generate.teacher if stage == "generate" and self.generate else self.label.teacher
        return chosen or next(iter(self.teachers))

    @property
    def judged_student(self) -> str | None:
        return self.evaluate.student or next(iter(self.students), None)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Labels with their definitions; empty where the task is not closed."""
        return self.task.labels if isinstance(self.task, Classify) else {}

    @property
    def metric(self) -> str:
        """What a score counts: `accuracy` for labels, else the task's scorer."""
        return "accuracy" if isinstance(self.task, Classify) else self.task.scorer

    @property
    def graded(self) -> bool:
        """Whether an answer may be partly right."""
        return self.metric in ("field_f1", "rouge_l", "judge")

    @cached_property
    def keys(self) -> dict[str, str]:
        """Labels by the letter that a teacher is asked for; empty where it is asked for labels."""
        return dict(zip(_KEYS, self.labels, strict=False)) if self.label.keys else {}

    @cached_property
    def schema_text(self) -> str:
        """The answer's JSON Schema as canonical text; empty where the task has none."""
        return canonical(self.task.json_schema) if isinstance(self.task, Extract) else ""

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the whole file, for the record; stages have their own."""
        return fingerprint(self.model_dump(by_alias=True))


class LoadedRecipe(Recipe):
    """A recipe together with where it stands and what the command line changed."""

    recipe: JobRecipe
    path: Path
    text: str
    """The file as it was read, to tell whether it changed under a running job."""
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What paths in the recipe are relative to."""
        return self.path.parent


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe.

    Args:
        overrides: `key.path=value` each, from `--set`; `train.` and `init.` alone mean every student.

    Raises:
        BadInput: the first thing that is wrong, in one line.
    """
    document = read_yaml(path)
    text = path.read_text(encoding="utf-8")
    changed = dict(_override(document, override) for override in overrides)
    try:
        recipe = JobRecipe.model_validate(document)
    except ValidationError as error:
        if overrides and _is_sound(read_yaml(path)):
            where = " ".join([str(path), "with", *(f"--set {override}" for override in overrides)])
            raise refusal(error, plain(document), where, JobRecipe) from None
        raise refusal(error, document, str(path), JobRecipe) from None
    return LoadedRecipe(recipe=recipe, path=path.resolve(), text=text, overrides=changed)


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Whether a recipe may be used as it stands in its file, so that only `--set` can be at fault."""
    try:
        JobRecipe.model_validate(document)
    except ValidationError:
        return False
    return True


def _override(document: dict[str, Any], override: str) -> tuple[str, Any]:
    """Change the document in place; returns the key and the new value."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, value_text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise BadInput(f"--set {override}: expected key.path=value, such as --set train.epochs=1")
    try:
        value = plain(YAML(typ="rt").load(value_text))
    except YAMLError:
        raise BadInput(f"--set {override}: '{value_text}' is not a YAML value; put text in quotes") from None
    if path[0] in ("train", "init"):
        students = document.get("students")
        places = [["students", name] for name in students] if isinstance(students, Mapping) else []
        places += [["student"]] if "student" in document else []
        if not places:
            raise BadInput(f"--set {override}: the recipe has no student; add a `student:` section")
        for place in places:
            _put(document, [*place, *path], value, override)
    else:
        _put(document, path, value, override)
    return key.strip(), value


def _put(document: Any, path: Sequence[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        if not isinstance(document, dict):
            raise BadInput(f"--set {override}: '{part}' stands inside a value that holds no keys")
        if document.get(part) is None:
            document[part] = {}
        document = document[part]
    if not isinstance(document, dict):
        raise BadInput(f"--set {override}: '{path[-1]}' stands inside a value that holds no keys")
    document[path[-1]] = value
