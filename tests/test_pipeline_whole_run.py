"""A whole run on real parts: an endpoint on loopback, a student trained by TRL, a verdict, a report, an answer."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from understudy.data.errors import BadInput
from understudy.data.storage import LocalStorage
from understudy.jobs.embedded.make import JOB
from understudy.pipeline.context import Run
from understudy.pipeline.plan import plan
from understudy.pipeline.progress import Reporter
from understudy.pipeline.proof import publish_report, score_lines, verdict_lines
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import run_stages
from understudy.pipeline.use import answers

from .endpoint import Endpoint, Reply, says

pytestmark = pytest.mark.slow

WORDS = {
    "delivery": ("parcel", "courier", "late", "tracking", "doorstep"),
    "refund": ("money", "refund", "bank", "repay", "owed"),
    "login": ("password", "locked", "login", "code", "account"),
}


def message(label: str, number: int) -> str:
    draw = random.Random(f"{label}/{number}")
    words = draw.sample(WORDS[label], 2)
    filler = draw.sample(("please", "today", "again", "my", "the", "still", "about", "why", "again"), 4)
    return f"{filler[0]} {words[0]} {filler[1]} {filler[2]} {words[1]} {filler[3]} {draw.randrange(10**6)}"


def teacher(body: dict) -> Reply:
    """Knows the words, is wrong where a message ends in 7, and says how sure it is."""
    text = body["messages"][-1]["content"]
    right = next(label for label, words in WORDS.items() if any(word in text for word in words))
    labels = sorted(WORDS)
    said = labels[(labels.index(right) + 1) % 3] if text.endswith("7") else right
    top = [{"token": label, "logprob": math.log(0.9 if label == said else 0.05)} for label in labels]
    return says(said, logprobs={"content": [{**top[labels.index(said)], "top_logprobs": top}]})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("job")
    with Endpoint(then=teacher) as endpoint:
        rows = [(label, message(label, n)) for n in range(130) for label in WORDS]
        (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for _, text in rows))
        gold = [(label, message(label, n)) for n in range(500, 560) for label in WORDS]
        lines = [json.dumps({"input": text, "output": label}) + "\n" for label, text in gold]
        (folder / "gold.jsonl").write_text("".join(lines))
        recipe = {
            "name": "whole",
            "task": {
                "kind": "classify",
                "instruction": "Which team?",
                "labels": list(WORDS),
                "unlabeled": "pool.jsonl",
                "test": {"gold": "gold.jsonl"},
            },
            "teachers": {
                "lead": {
                    "kind": "openai",
                    "model": "m",
                    "base_url": endpoint.base_url,
                    "price": {"input": 1.0, "output": 2.0},
                }
            },
            "label": {"logprobs": 3},
            "student": {
                "init": {"kind": "dense", "parameters": "0.3M"},
                "train": {"epochs": 10, "batch": 16, "seeds": [0, 1]},
            },
            "evaluate": {"margin": 10},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        yield folder, endpoint


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


@pytest.fixture(scope="module")
def report(job):
    folder, _ = job
    run = opened(folder)
    assert [state for state in plan(run).stages.values()] == ["to do"] * 4
    made = publish_report(run, run_stages(run))
    run.close()
    return made


def test_the_student_passes_where_it_is_as_good_as_its_teacher(report):
    models = report["models"]

    assert set(models) == {"teacher", "student", "untrained", "majority", "neighbour", "linear"}
    assert models["student"]["score"]["gold"]["value"] > 80
    assert models["majority"]["score"]["gold"]["value"] == pytest.approx(100 / 3, abs=0.1)
    assert 50e6 < models["student"]["memory"] < 2e9, "a process with torch in it"
    assert models["student"]["tokens_per_second"] > 5 * models["student"]["per_second"] > 0
    assert report["verdict"]["decision"] == "pass"
    assert report["verdict"]["reference"] == "gold"
    assert [trained["seed"] for trained in models["student"]["seeds"]] == [0, 1]
    assert models["teacher"]["usd_per_1000"] == pytest.approx(1000 * (7 * 1.0 + 2 * 2.0) / 1e6)


def test_what_was_paid_and_what_became_of_every_row_is_in_the_report(report, job):
    _, endpoint = job

    assert report["spend"]["requests"] == len(endpoint.requests) == 390 + 180 + 180, "gold rows are asked twice"
    assert report["spend"]["usd"] == pytest.approx(750 * 11 / 1e6)
    for counts in report["rows"].values():
        gone = sum(counts["rejected"].values()) + sum(counts["failed"].values())
        assert counts["requested"] == counts["accepted"] + gone + counts["pending"]


def test_a_finished_run_does_nothing_and_says_the_same(report, job):
    folder, endpoint = job
    before = len(endpoint.requests)
    page = folder / "root/whole/report.html"
    written = page.stat().st_mtime_ns
    run = opened(folder)

    again = publish_report(run, run_stages(run))
    run.close()

    assert again == report
    assert len(endpoint.requests) == before
    assert page.stat().st_mtime_ns == written


def test_a_new_margin_is_judged_anew_without_asking_or_training(report, job, capsys):
    folder, endpoint = job
    before = len(endpoint.requests)
    run = opened(folder, "evaluate.margin=1")

    made = publish_report(run, run_stages(run))
    run.close()

    assert len(endpoint.requests) == before
    assert "evaluate: done in" not in capsys.readouterr().err, "the table of answers was there"
    assert made["margin"] == 1
    assert made["difference"] == report["difference"]


def test_the_lines_for_a_terminal_name_every_model_and_the_verdict(report):
    lines = score_lines(report)

    assert lines[0] == "gold (180 rows, gold)"
    assert {line.split()[0] for line in lines[1:]} == set(report["models"])
    assert verdict_lines(report)[0].startswith("PASS: student may stand in for the teacher")


def test_the_trained_student_answers_alone_and_in_plain_transformers_alike(job):
    folder, _ = job
    run = opened(folder)
    texts = ["where is the parcel, the courier was here", "I forgot my password, now the login says locked"]

    said = [(output, sure) for _, output, sure in answers(run, None, texts)]
    run.close()

    assert [output for output, _ in said] == ["delivery", "login"]
    (trained,) = (folder / "root/stages").glob("train-*")
    chosen = json.loads((trained / "manifest.json").read_text())["summary"]["chosen"]
    student = trained / f"seed-{chosen}"
    copied = folder / "elsewhere"
    shutil.copytree(student, copied, dirs_exist_ok=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(copied), AutoTokenizer.from_pretrained(copied)
    for text, (output, sure) in zip(texts, said, strict=True):
        turn = [{"role": "user", "content": text}]
        asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**asked, max_new_tokens=2, do_sample=False)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == output
        tokens = list(model.config.label_token_ids.values())
        probs = model(**asked).logits[0, -1, tokens].softmax(-1)
        assert probs.max().item() == pytest.approx(sure, abs=1e-4)


def test_an_unknown_student_is_refused(report, job):
    folder, _ = job
    run = opened(folder)

    with pytest.raises(BadInput, match=r"^--student nobody: no such student; defined: student$"):
        list(answers(run, "nobody", ["hello"]))
    run.close()


def test_without_gold_the_teacher_is_compared_with_its_own_second_answer(job):
    folder, _ = job
    recipe = json.loads((folder / "recipe.yaml").read_text())
    del recipe["task"]["test"]
    recipe["name"] = "no-gold"
    (folder / "no-gold.yaml").write_text(json.dumps(recipe))
    run = Run(
        load_recipe(folder / "no-gold.yaml", ["train.seeds=[0]", "train.epochs=4"]),
        LocalStorage(folder / "root"),
        Reporter(),
    )

    made = publish_report(run, run_stages(run))
    run.close()

    assert made["verdict"]["reference"] == "teacher"
    assert made["models"]["teacher"]["score"]["held_out"]["value"] == 100.0
    assert 40 < made["tests"]["held_out"]["rows"] < 120
    assert "(no gold: measured against the teacher's own answers)" in verdict_lines(made)[0]


def test_an_extract_task_runs_from_a_table_of_answers_to_a_judged_student(tmp_path):
    cities = ("Rome", "Oslo", "Lima", "Bonn")
    rows = [
        {"input": f"book {n % 7 + 1} seats to {cities[n % 4]}", "output": {"city": cities[n % 4], "seats": n % 7 + 1}}
        for n in range(280)
    ]
    for name, some in (("answers.jsonl", rows), ("gold.jsonl", rows[:28])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    inputs = [{"input": f"please {row['input']} {n}"} for n, row in enumerate(rows)]
    table = [{"input": asked["input"], "output": row["output"]} for asked, row in zip(inputs, rows, strict=True)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*table, *rows]))
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "seats": {"type": "integer"}},
        "required": ["city", "seats"],
        "additionalProperties": False,
    }
    recipe = {
        "name": "seats",
        "task": {
            "kind": "extract",
            "instruction": "Read the booking.",
            "schema": schema,
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}, "decontaminate": None},  # the pool says every gold row again
        "student": {
            "init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512},
            "train": {"epochs": 12, "batch": 16, "learning_rate": 0.003, "max_length": 96},
        },
        "evaluate": {"margin": 20},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run = Run(load_recipe(tmp_path / "recipe.yaml"), LocalStorage(tmp_path / "root"), Reporter())

    made = publish_report(run, run_stages(run))
    run.close()

    assert made["models"]["teacher"]["score"]["gold"] == {
        "metric": "field_f1",
        "value": 100.0,
        "low": 100.0,
        "high": 100.0,
    }
    assert set(made["models"]) == {"teacher", "student", "untrained", "majority", "neighbour"}
    assert made["models"]["student"]["further"]["gold"]["valid"]["value"] > 90
    assert made["models"]["student"]["score"]["gold"]["value"] > 50
    assert made["confusion"] is None


def test_a_student_is_cut_from_the_teacher_of_its_recipe(tmp_path):
    rows = [json.loads(line) for line in (JOB / "grammar_test.jsonl").read_text().splitlines()]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"input": row["input"]}) + "\n" for row in rows[:300]))
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[300:400]))
    (tmp_path / "label.j2").write_text("[user]\nLabel: {{ input }}\n")
    recipe = {
        "name": "cut",
        "task": {
            "kind": "classify",
            "instruction": "Which team?",
            "labels": sorted({row["output"] for row in rows}),
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "prompts": {"label": "label.j2"},
        "teachers": {"lead": {"kind": "embedded"}},
        "student": {
            "init": {"kind": "layers", "teacher": "lead", "parameters": "0.95M", "layers": 2, "vocabulary": 3072},
            "train": {"epochs": 2, "learning_rate": 0.0005, "dropout": 0.0},
        },
        "evaluate": {"margin": 10},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run = opened(tmp_path)

    manifests = run_stages(run)
    made = publish_report(run, manifests)
    run.close()

    assert manifests["train:student"]["made_from"]["cut_from"]["kind"] == "embedded"
    assert made["models"]["student"]["parameters"] <= 950_000
    assert made["models"]["student"]["score"]["gold"]["value"] > 60, "what the teacher knows about words was lost"


def test_free_text_is_judged_in_both_orders_by_another_teacher(tmp_path, capsys):
    def reply(body: dict) -> Reply:
        asked = body["messages"][-1]["content"]
        if body["model"] == "judge":
            first, second = (part.split("\n\n")[0] for part in re.split(r"Answer [AB]:\n", asked)[1:])
            return says("tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B")
        return says(f"Dear customer, about {asked.split()[-1]}: yes.")

    with Endpoint(then=reply) as endpoint:
        lead = {"kind": "openai", "model": "lead", "base_url": endpoint.base_url}
        rows = [f"may I return order {n}" for n in range(1000, 1120)]
        (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in rows))
        gold = [{"input": f"may I return order {n}", "output": f"about {n}: yes."} for n in range(2000, 2030)]
        (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
        recipe = {
            "name": "replies",
            "task": {
                "kind": "generate",
                "instruction": "Reply.",
                "unlabeled": "pool.jsonl",
                "test": {"gold": "gold.jsonl"},
                "scorer": "judge",
            },
            "teachers": {"lead": lead, "other": {**lead, "model": "judge"}},
            "label": {"teacher": "lead"},
            "curate": {"duplicates": {"near": None}},
            "student": {
                "init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512},
                "train": {"epochs": 3, "batch": 16, "max_length": 64},
            },
            "evaluate": {"judge": "other", "second_opinions": 0},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        run = opened(tmp_path)
        planned = {part.stage: part.requests for part in plan(run).asked}

        made = publish_report(run, run_stages(run))
        run.close()

    asked = [body["model"] for body in endpoint.bodies]
    assert planned == {"label": 120, "evaluate": 30, "judge": 2 * 5 * 30}
    assert asked.count("lead") == 150
    assert 200 < asked.count("judge") <= 2 * made["judge"]["pairs"] <= planned["judge"], "alike pairs are asked once"
    assert made["models"]["teacher"]["score"]["gold"]["value"] == 100, "its answers are longer than the gold"
    assert made["judge"]["longer_preferred"]["value"] == 100
    assert made["judge"]["is_the_teacher"] is False
    assert "judge other: " in capsys.readouterr().err
