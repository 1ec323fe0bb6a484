from pathlib import Path

import pytest

from understudy.data.errors import BadInput
from understudy.pipeline.recipe import JobRecipe, load_recipe
from understudy.pipeline.tasks import Classify, Extract

BASE = """\
name: triage
task:
  kind: classify
  instruction: Which team?
  labels: [billing, delivery, other]
  unlabeled: pool.jsonl
teachers:
  lead:
    kind: table
    model: answers.jsonl
"""
TASK, TEACHERS = BASE.split("teachers:")
LABELS = "labels: [billing, delivery, other]"
SEEDS = BASE.replace("unlabeled: pool.jsonl", "seeds: seeds.jsonl")
EXTRACT = BASE.replace("classify", "extract")
TWO = BASE + "  second: {kind: table, model: b.jsonl}\n"
OPENAI = BASE.replace("kind: table", "kind: openai")


def load(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    """The one line, from the recipe's name on."""
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_a_recipe_needs_a_name_a_task_and_a_teacher_and_no_more(tmp_path):
    loaded = load(tmp_path, BASE)
    assert loaded.folder == tmp_path
    assert loaded.text == BASE
    assert loaded.recipe.labels == {"billing": "", "delivery": "", "other": ""}
    assert loaded.recipe.teacher_of("label") == "lead"
    assert loaded.recipe.judged_student is None
    assert loaded.recipe.split.model_dump() == {"test": None, "validation": 0.05, "calibration": 0.1}


REFUSED = {
    "a control of a student without experts": (
        BASE + "student: {init: {kind: dense}, control: true}\n",
        "recipe.yaml:11: student.control: is for students with experts, and this one has none; use init: {kind: moe}",
    ),
    "a control whose name is taken": (
        BASE + "students:\n  a: {init: {kind: moe}, control: true}\n  a-control: {}\n",
        "recipe.yaml:12: students.a.control: 'a-control' is another student of this recipe; rename that one",
    ),
    "adapters for a student from nothing": (
        BASE + "student: {init: {kind: moe}, train: {lora: {rank: 8}}}\n",
        "recipe.yaml:11: student.train.lora: is for a model that was trained before, and this one was not; remove it",
    ),
    "adapters of no layer": (
        BASE + "student: {init: {kind: hub, model: a/b}, train: {lora: {targets: []}}}\n",
        "recipe.yaml:11: student.train.lora.targets: is empty; expected a list such as [q_proj, v_proj], or all-linear",
    ),
    "adapters of one layer without a list": (
        BASE + "student: {init: {kind: hub, model: a/b}, train: {lora: {targets: q_proj}}}\n",
        "recipe.yaml:11: student.train.lora.targets: is q_proj; expected a list such as [q_proj, v_proj], or "
        "all-linear",
    ),
    "more active experts than there are": (
        BASE + "student: {init: {kind: moe, experts: 4, active: 6}}\n",
        "recipe.yaml:11: student.init.active: is 6, and a layer has 4 experts; ask for fewer",
    ),
    "an unknown key": (
        BASE + "evaluat: {margin: 2}\n",
        "recipe.yaml:11: unknown key 'evaluat'; did you mean 'evaluate'?",
    ),
    "an unknown key in a section": (
        BASE + "label:\n  teacher: lead\n  sampels: 3\n",
        "recipe.yaml:13: unknown key 'sampels' in label; did you mean 'samples'?",
    ),
    "an unknown key like no other": (
        BASE + "label: {zzz: 3}\n",
        "recipe.yaml:11: unknown key 'zzz' in label; known keys: keys, logprobs, max_tokens, retries, samples, "
        "teacher, temperature",
    ),
    "a misspelt section that is needed": (
        BASE.replace("task:", "tasks:"),
        "recipe.yaml:2: unknown key 'tasks'; did you mean 'task'?",
    ),
    "an unknown key in a teacher of a kind": (
        BASE + "    modle: x\n",
        "recipe.yaml:11: unknown key 'modle' in teachers.lead; did you mean 'model'?",
    ),
    "a key of another kind of teacher": (
        BASE + "    base_url: http://127.0.0.1/v1\n",
        "recipe.yaml:11: unknown key 'base_url' in teachers.lead; known keys: concurrency, kind, model, price, "
        "revision",
    ),
    "an unknown key in the short form of a student": (
        BASE + "student:\n  train: {epoch: 3}\n",
        "recipe.yaml:12: unknown key 'epoch' in student.train; did you mean 'epochs'?",
    ),
    "an unknown key in a named student": (
        BASE + "students:\n  small:\n    train: {epoch: 3}\n",
        "recipe.yaml:13: unknown key 'epoch' in students.small.train; did you mean 'epochs'?",
    ),
    "a prompt for no stage": (
        BASE + "prompts: {lable: prompts/label.j2}\n",
        "recipe.yaml:11: unknown key 'lable' in prompts; did you mean 'label'?",
    ),
    "labels of an extraction": (
        EXTRACT,
        "recipe.yaml:5: unknown key 'labels' in task; did you mean 'unlabeled'?",
    ),
    "a key given twice": (
        BASE + "name: again\n",
        "recipe.yaml:11: key 'name' is given twice; a key may be given once: remove one",
    ),
    "a key given twice in a section": (
        BASE.replace("  instruction", "  kind: extract\n  instruction"),
        "recipe.yaml:4: key 'kind' is given twice; a key may be given once: remove one",
    ),
    "a word for a number": (
        BASE + "label:\n  samples: many\n",
        "recipe.yaml:12: label.samples = 'many': should be a valid integer",
    ),
    "a fraction for a count": (
        BASE + "label: {samples: 1.5}\n",
        "recipe.yaml:11: label.samples = 1.5: should be a valid integer",
    ),
    "a number for a name": (
        BASE.replace("triage", "2024"),
        "recipe.yaml:1: name = 2024: should be a valid string; put it in quotes: '2024'",
    ),
    "a number out of its bounds": (
        BASE + "split:\n  test: 20\n",
        "recipe.yaml:12: split.test = 20: should be less than 1",
    ),
    "a margin that is no number": (
        BASE + "evaluate: {margin: .nan}\n",
        "recipe.yaml:11: evaluate.margin = nan: should be a finite number",
    ),
    "a name that is no folder's": (
        BASE.replace("triage", "../triage"),
        "recipe.yaml:1: name: '../triage' cannot name a folder; use at most 100 letters, digits, '-', '_' and '.'",
    ),
    "a name that is a folder of every root": (
        BASE.replace("triage", "ledger"),
        "recipe.yaml:1: name: 'ledger' is a folder that every root has; choose another name",
    ),
    "a label read as a yes/no value": (
        BASE.replace(LABELS, "labels:\n  - billing\n  - true"),
        "recipe.yaml:7: task.labels.1: label true is not text; put it in quotes: 'true'",
    ),
    "a label read as a number": (
        BASE.replace(LABELS, "labels:\n  - 1\n  - 2"),
        "recipe.yaml:6: task.labels.0: label 1 is not text; put it in quotes: '1'",
    ),
    "a label read as nothing": (
        BASE.replace(LABELS, "labels: [billing, null]"),
        "recipe.yaml:5: task.labels.1: label null is not text; put it in quotes: 'null'",
    ),
    "a label with a meaning read as a yes/no value": (
        BASE.replace(LABELS, "labels: {true: it is, false: it is not}"),
        "recipe.yaml:5: task.labels.true: label true is not text; put it in quotes: 'true'",
    ),
    "a meaning read as a number": (
        BASE.replace(LABELS, "labels: {a: 1, b: x}"),
        "recipe.yaml:5: task.labels.a = 1: should be a valid string; put it in quotes: '1'",
    ),
    "labels in one string": (
        BASE.replace(LABELS, "labels: billing, delivery"),
        "recipe.yaml:5: task.labels: expected a list of labels, or a mapping from labels to what each means",
    ),
    "two equal labels": (
        BASE.replace(LABELS, "labels:\n  - billing\n  - delivery\n  - billing"),
        "recipe.yaml:8: task.labels.2: label 'billing' is given twice; a label may be given once: remove one",
    ),
    "two equal labels with meanings": (
        BASE.replace(LABELS, "labels:\n    billing: x\n    billing: y"),
        "recipe.yaml:7: key 'billing' is given twice; a key may be given once: remove one",
    ),
    "labels that differ in case": (
        BASE.replace(LABELS, "labels: [Billing, billing]"),
        "recipe.yaml:5: task.labels: labels 'Billing' and 'billing' differ in case only; rename one",
    ),
    "one label": (
        BASE.replace(LABELS, "labels: [billing]"),
        "recipe.yaml:5: task.labels: 1 label given; a choice needs at least 2",
    ),
    "no labels": (
        BASE.replace(LABELS, "labels: []"),
        "recipe.yaml:5: task.labels: 0 label given; a choice needs at least 2",
    ),
    "an empty label": (
        BASE.replace(LABELS, "labels: ['', billing]"),
        "recipe.yaml:5: task.labels: a label is empty; give it a name, or remove it",
    ),
    "a label with space around it": (
        BASE.replace(LABELS, "labels: [' billing', other]"),
        "recipe.yaml:5: task.labels: label ' billing' has space around it or several lines; write it as one word or "
        "line",
    ),
    "a label of two lines": (
        BASE.replace(LABELS, 'labels: ["bill\\ning", other]'),
        "recipe.yaml:5: task.labels: label 'bill\\ning' has space around it or several lines; write it as one word "
        "or line",
    ),
    "a task of an unknown kind": (
        BASE.replace("classify", "clasify"),
        "recipe.yaml:2: task has kind = 'clasify'; expected one of 'classify', 'extract', 'generate'",
    ),
    "a teacher of an unknown kind": (
        BASE.replace("kind: table", "kind: tabel"),
        "recipe.yaml:8: teachers.lead has kind = 'tabel'; expected one of 'openai', 'transformers', 'vllm', "
        "'embedded', 'table'",
    ),
    "no task": (
        "name: triage\nteachers:" + TEACHERS,
        "recipe.yaml: task is missing; add it",
    ),
    "no labels at all": (
        BASE.replace(f"  {LABELS}\n", ""),
        "recipe.yaml:2: task.labels is missing; add it",
    ),
    "no schema at all": (
        EXTRACT.replace(f"  {LABELS}\n", ""),
        "recipe.yaml:2: task.schema is missing; add it",
    ),
    "no teachers": (
        TASK + "teachers: {}\n",
        "recipe.yaml:7: teachers: holds no teacher; add one, such as lead: {kind: openai, model: ...}",
    ),
    "neither seeds nor inputs": (
        BASE.replace("  unlabeled: pool.jsonl\n", ""),
        "recipe.yaml:2: task: has neither `seeds` nor `unlabeled`, so there is nothing to learn from; add one",
    ),
    "seeds that nothing is written from": (
        SEEDS,
        "recipe.yaml:2: task: seeds alone are no inputs to label; add a `generate` section, or task.unlabeled",
    ),
    "writing without seeds": (
        BASE + "generate: {rows: 5}\n",
        "recipe.yaml:11: generate: self-instruct writes from seeds; add task.seeds, a file of {input, output?}",
    ),
    "a labeler that is not defined": (
        BASE + "label:\n  teacher: leed\n",
        "recipe.yaml:12: label.teacher: 'leed' is no teacher of this recipe; defined: lead",
    ),
    "a writer that is not defined": (
        SEEDS + "generate:\n  rows: 5\n  teacher: leed\n",
        "recipe.yaml:13: generate.teacher: 'leed' is no teacher of this recipe; defined: lead",
    ),
    "two teachers and no labeler chosen": (
        TWO + "label: {samples: 1}\n",
        "recipe.yaml:12: label: says no `teacher`; choose one of lead, second",
    ),
    "two teachers and no section that could choose": (
        TWO,
        "recipe.yaml: label: says no `teacher`; choose one of lead, second",
    ),
    "two teachers and no writer chosen": (
        TWO.replace("unlabeled: pool", "seeds: seeds") + "label: {teacher: lead}\ngenerate: {rows: 5}\n",
        "recipe.yaml:13: generate: says no `teacher`; choose one of lead, second",
    ),
    "a student cut from nobody": (
        BASE + "student: {init: {kind: layers, teacher: leed}}\n",
        "recipe.yaml:11: student.init.teacher: 'leed' is no teacher of this recipe; defined: lead",
    ),
    "a student cut from a teacher whose weights are elsewhere": (
        BASE + "student:\n  init: {kind: layers, teacher: lead}\n",
        "recipe.yaml:12: student.init.teacher: 'lead' is of kind 'table', whose weights are not in this process; "
        "name one of kind embedded or transformers, or use init: {kind: dense}",
    ),
    "a student cut from a teacher that is not named": (
        BASE + "student:\n  init:\n    kind: layers\n",
        "recipe.yaml:12: student.init.teacher is missing; add it",
    ),
    "a student of an unknown kind": (
        BASE + "student:\n  init: {kind: sparse}\n",
        "recipe.yaml:12: student.init has kind = 'sparse'; expected one of 'dense', 'moe', 'twin', 'layers', 'hub', "
        "'upcycle', 'encoder'",
    ),
    "noise for a model that was trained before": (
        BASE + "student:\n  init: {kind: hub, model: org/name}\n  train: {noise: 0.1}\n",
        "recipe.yaml:13: student.train.noise: is for students from nothing or cut from a teacher; remove it",
    ),
    "dropout for an encoder that was trained before": (
        BASE + "student:\n  init: {kind: encoder, model: org/name}\n  train: {dropout: 0.2}\n",
        "recipe.yaml:13: student.train.dropout: is for students from nothing or cut from a teacher; remove it",
    ),
    "an encoder that is to write": (
        EXTRACT.replace(LABELS, "schema: {type: object}") + "student:\n  init: {kind: encoder}\n",
        "recipe.yaml:12: student.init: an encoder answers with closed labels alone, and the task is of kind 'extract'; "
        "use init: {kind: dense}",
    ),
    "an encoder that is to learn tokens": (
        BASE + "student:\n  init: {kind: encoder}\n  train:\n    method: [sft, topk]\n",
        "recipe.yaml:14: student.train.method: an encoder learns labels, by sft; remove the others",
    ),
    "a size for an encoder that has its own": (
        BASE + "student:\n  init:\n    kind: encoder\n    model: org/name\n    parameters: 2M\n",
        "recipe.yaml:15: student.init.parameters: is for an encoder from scratch, and `model` has its own; remove one",
    ),
    "a student that is called as a baseline is": (
        BASE + "students:\n  few_shot: {}\n",
        "recipe.yaml:12: students.few_shot: 'few_shot' is another model of the report; choose another name",
    ),
    "a judged student that is not defined": (
        BASE + "students: {small: {}, large: {}}\nevaluate:\n  student: medium\n",
        "recipe.yaml:13: evaluate.student: 'medium' is no student of this recipe; defined: small, large",
    ),
    "a judged student where there is none": (
        BASE + "evaluate: {student: small}\n",
        "recipe.yaml:11: evaluate.student: 'small' is no student of this recipe; defined: none",
    ),
    "both forms of a student": (
        BASE + "student: {}\nstudents: {small: {}}\n",
        "recipe.yaml:11: student: `students` is given too; keep one of the two",
    ),
    "a student that passes for the teacher": (
        BASE + "students:\n  teacher: {}\n",
        "recipe.yaml:12: students.teacher: 'teacher' is another model of the report; choose another name",
    ),
    "a test that passes for the rows held out": (
        BASE.replace("  unlabeled", "  test: {held_out: gold.jsonl}\n  unlabeled"),
        "recipe.yaml:6: task.test.held_out: names the rows held out of the inputs; choose another name",
    ),
    "several greedy samples": (
        BASE + "label: {samples: 5}\n",
        "recipe.yaml:11: label: temperature = 0 gives the same answer 5 times; set samples = 1, or a temperature "
        "above 0",
    ),
    "keys that leave labels out": (
        OPENAI + "label: {keys: true}\n",
        "recipe.yaml:11: label.keys: logprobs = 0 leaves out labels; set label.logprobs = 3 or more",
    ),
    "keys for a teacher that may say labels only": (
        OPENAI + "    choices: true\nlabel: {keys: true, logprobs: 5}\n",
        "recipe.yaml:12: label.keys: letters are answered, and the teacher's `choices` allow labels only; remove one",
    ),
    "keys for a teacher that scores labels": (
        BASE + "label: {keys: true, logprobs: 5}\n",
        "recipe.yaml:11: label.keys: a teacher of kind 'table' does without; remove it",
    ),
    "a budget that nobody can keep": (
        OPENAI + "budget: {usd: 3}\n",
        "recipe.yaml:8: teachers.lead: has no price, so budget.usd cannot be kept; add price: {input: ..., output: "
        "...} in dollars per million tokens, or price: {per_hour: ...}",
    ),
    "half a price": (
        OPENAI + "    price: {input: 1}\n",
        "recipe.yaml:11: teachers.lead.price.output is missing; add it",
    ),
    "a price that is no mapping": (
        OPENAI + "    price: 3\n",
        "recipe.yaml:11: teachers.lead.price = 3: should be a mapping",
    ),
    "a price of tokens and of hours": (
        OPENAI + "    price: {per_hour: 2, input: 1}\n",
        "recipe.yaml:11: 'input' in teachers.lead.price does not go with the keys beside it; remove one",
    ),
    "a machine that costs nothing": (
        OPENAI + "    price: {per_hour: 0}\n",
        "recipe.yaml:11: teachers.lead.price.per_hour = 0: should be greater than 0",
    ),
    "a size in no unit": (
        BASE + "student:\n  init:\n    parameters: 1X\n",
        "recipe.yaml:13: student.init.parameters: '1X' is not a size; expected a number and K, M or B, such as 1M",
    ),
    "a size too small": (
        BASE + "student: {init: {parameters: 10K}}\n",
        "recipe.yaml:11: student.init.parameters: '10K' cannot be trained from scratch here; expected 0.3M to 100M",
    ),
    "a schema of an unknown type": (
        EXTRACT.replace(LABELS, "schema: {type: objekt}"),
        "recipe.yaml:5: task.schema: not a JSON Schema: 'objekt' is not valid under any of the given schemas; mend it",
    ),
    "a schema with a pattern that is none": (
        EXTRACT.replace(LABELS, "schema: {type: string, pattern: '['}"),
        "recipe.yaml:5: task.schema: not a JSON Schema: '[' is not a 'regex'; mend it",
    ),
    "a schema that points nowhere": (
        EXTRACT.replace(LABELS, "schema: {properties: {total: {$ref: '#/$defs/money'}}}"),
        "recipe.yaml:5: task.schema: $ref '#/$defs/money' leads nowhere inside the schema; define it in `$defs`",
    ),
    "a schema that lives elsewhere": (
        EXTRACT.replace(LABELS, "schema: {$ref: 'https://example.com/invoice.json'}"),
        "recipe.yaml:5: task.schema: $ref 'https://example.com/invoice.json' leads nowhere inside the schema; define "
        "it in `$defs`",
    ),
    "a schema with a date": (
        EXTRACT.replace(LABELS, "schema: {enum: [2024-01-01]}"),
        "recipe.yaml:5: task.schema: not JSON: Object of type date is not JSON serializable; put dates, and numbers "
        "used as names, in quotes",
    ),
    "shares that leave nothing to train on": (
        BASE + "split: {test: 0.5, validation: 0.4, calibration: 0.1}\n",
        "recipe.yaml:11: split: test + validation + calibration = 1 leaves nothing to train on; lower them until "
        "their sum is under 1",
    ),
    "broken YAML": (
        BASE + "label: {samples: [}\n",
        "recipe.yaml:11: not valid YAML: expected the node content, but found '}'; mend that line",
    ),
    "an empty file": ("", "recipe.yaml: holds nothing; expected keys such as `name:` and `task:`"),
    "a list": ("- name\n", "recipe.yaml: holds a list; expected keys such as `name:` and `task:`"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_recipe_is_refused_in_one_line_for(mistake, tmp_path):
    text, message = REFUSED[mistake]
    assert refusal(tmp_path, text) == message


def test_what_has_no_kind_is_told_so(tmp_path):
    said = refusal(tmp_path, BASE.replace("  kind: classify\n", ""))
    assert said.startswith("recipe.yaml:2: task has no `kind`; expected one of ")
    said = refusal(tmp_path, BASE.replace("    kind: table\n", ""))
    assert said.startswith("recipe.yaml:8: teachers.lead has no `kind`; expected one of ")


def test_a_section_of_another_type_is_told_so(tmp_path):
    assert refusal(tmp_path, BASE + "label: 3\n").startswith("recipe.yaml:11: label = 3: should be a mapping")
    assert refusal(tmp_path, TASK + "teachers: [lead]\n").startswith("recipe.yaml:7: teachers = a list: should be ")


def test_no_and_yes_and_off_are_text_as_yaml_1_2_has_it(tmp_path):
    loaded = load(tmp_path, BASE.replace(LABELS, "labels: {yes: it is, no: off}"))
    assert loaded.recipe.labels == {"yes": "it is", "no": "off"}


def test_a_label_may_go_without_a_meaning_among_others_that_have_one(tmp_path):
    loaded = load(tmp_path, BASE.replace(LABELS, "labels:\n    billing: a charge\n    other:"))
    assert loaded.recipe.labels == {"billing": "a charge", "other": ""}


def test_a_schema_may_refer_to_its_own_parts(tmp_path):
    schema = "schema: {$defs: {money: {type: number}}, properties: {total: {$ref: '#/$defs/money'}}}"
    task = load(tmp_path, EXTRACT.replace(LABELS, schema)).recipe.task
    assert isinstance(task, Extract)
    assert task.json_schema["properties"] == {"total": {"$ref": "#/$defs/money"}}


def test_a_folder_is_refused_and_so_is_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(BadInput, match="no such recipe; `understudy init NAME` writes one"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(BadInput, match=r"is a folder; give the recipe file in it, such as .*/recipe\.yaml"):
        load_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(BadInput, match="byte 9 is not UTF-8; save the recipe as UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")


def test_set_changes_a_field_and_is_remembered(tmp_path):
    loaded = load(tmp_path, BASE, "label.retries=5", "evaluate.margin=1.5", "task.labels=[a, b]")
    assert loaded.recipe.label.retries == 5
    assert loaded.recipe.evaluate.margin == 1.5
    assert isinstance(loaded.recipe.task, Classify)
    assert loaded.recipe.labels == {"a": "", "b": ""}
    assert loaded.overrides == {"label.retries": 5, "evaluate.margin": 1.5, "task.labels": ["a", "b"]}
    assert loaded.text == BASE


def test_train_and_init_alone_mean_every_student(tmp_path):
    loaded = load(tmp_path, BASE + "students: {a: {train: {epochs: 3}}, b: }\n", "train.epochs=7", "init.parameters=2M")
    assert [(s.train.epochs, s.init.parameters) for s in loaded.recipe.students.values()] == [(7, "2M"), (7, "2M")]
    assert load(tmp_path, BASE + "student:\n", "train.epochs=7").recipe.students["student"].train.epochs == 7


def test_set_may_make_good_what_the_file_lacks(tmp_path):
    assert load(tmp_path, TWO, "label.teacher=second").recipe.teacher_of("label") == "second"


WRONG_SETS = {
    "train.epochs": "--set train.epochs: expected key.path=value, such as --set train.epochs=1",
    "=1": "--set =1: expected key.path=value, such as --set train.epochs=1",
    "label..samples=1": "--set label..samples=1: expected key.path=value, such as --set train.epochs=1",
    "train.epochs=1": "--set train.epochs=1: the recipe has no student; add a `student:` section",
    "init.parameters=2M": "--set init.parameters=2M: the recipe has no student; add a `student:` section",
    "label.samples=[1": "--set label.samples=[1: '[1' is not a YAML value; put text in quotes",
    "name.first=x": "--set name.first=x: 'first' stands inside a value that holds no keys",
    "task.labels.other=x": "--set task.labels.other=x: 'other' stands inside a value that holds no keys",
    "labell.samples=1": "recipe.yaml with --set labell.samples=1: unknown key 'labell'; did you mean 'label'?",
    "label.samples=": "recipe.yaml with --set label.samples=: label.samples = null: should be a valid integer",
    "label.samples=many": (
        "recipe.yaml with --set label.samples=many: label.samples = 'many': should be a valid integer"
    ),
    "label.teacher=x": (
        "recipe.yaml with --set label.teacher=x: label.teacher: 'x' is no teacher of this recipe; defined: lead"
    ),
}


@pytest.mark.parametrize("override", WRONG_SETS)
def test_a_wrong_set_is_blamed_and_not_the_file(override, tmp_path):
    assert refusal(tmp_path, BASE, override) == WRONG_SETS[override]


def test_a_fault_of_the_file_is_blamed_on_the_file_whatever_was_set(tmp_path):
    said = refusal(tmp_path, BASE + "label: {sampels: 3}\n", "evaluate.margin=1")
    assert said == "recipe.yaml:11: unknown key 'sampels' in label; did you mean 'samples'?"


@pytest.mark.parametrize("students", ["5", "[a]", "text"])
def test_set_meets_students_that_are_none(students, tmp_path):
    said = refusal(tmp_path, BASE + f"students: {students}\n", "train.epochs=1")
    assert said == "--set train.epochs=1: the recipe has no student; add a `student:` section"


def test_an_encoder_has_a_size_from_scratch_and_learns_gently_where_it_was_trained_before(tmp_path):
    scratch = load(tmp_path, BASE + "student: {init: {kind: encoder}}\n").recipe.students["student"]
    begun = load(tmp_path, BASE + "student: {init: {kind: encoder, model: org/name}}\n").recipe.students["student"]

    assert scratch.init.parameters == "2M"
    assert (scratch.begins_as, begun.begins_as) == (None, begun.init)
    assert begun.train.learning_rate < scratch.train.learning_rate
    assert (begun.train.dropout, begun.train.noise) == (0.0, 0.0)


def test_the_fingerprint_of_a_recipe_is_of_what_it_says_and_not_how(tmp_path):
    first = load(tmp_path, BASE).recipe
    other = load(
        tmp_path, "# a comment\n" + BASE.replace(LABELS, "labels:\n  - billing\n  - delivery\n  - other")
    ).recipe
    assert first.fingerprint == other.fingerprint
    assert first.fingerprint != load(tmp_path, BASE, "evaluate.margin=1").recipe.fingerprint


def test_a_control_is_a_student_behind_the_one_it_is_asked_for(tmp_path):
    text = BASE + "students:\n  moe: {init: {kind: moe, active: 1}, train: {epochs: 3}, control: true}\n  plain: {}\n"

    recipe = load(tmp_path, text, "train.batch=8").recipe

    assert list(recipe.students) == ["moe", "moe-control", "plain"]
    moe, control = recipe.students["moe"], recipe.students["moe-control"]
    assert control.train == moe.train
    assert (control.train.epochs, control.train.batch) == (3, 8)
    assert (control.init.kind, control.init.active, control.control) == ("twin", 1, False)
    assert recipe.judged_student == "moe"
    assert JobRecipe.model_validate(recipe.model_dump(by_alias=True)) == recipe, "read again, it has no second control"


def test_the_short_form_of_a_student_is_the_long_one(tmp_path):
    short = load(tmp_path, BASE + "student: {train: {epochs: 2}}\n").recipe
    long = load(tmp_path, BASE + "students: {student: {train: {epochs: 2}}}\n").recipe
    assert short.students == long.students
    assert short.fingerprint == long.fingerprint
    assert short.judged_student == "student"
