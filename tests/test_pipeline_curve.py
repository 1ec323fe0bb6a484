"""The learning curve and the overfit probe, from the parts of the rows to the lines in a terminal."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from understudy.data.errors import BadInput
from understudy.data.rows import Example
from understudy.data.storage import LocalStorage
from understudy.pipeline.capacity import Findings, capacity
from understudy.pipeline.context import Run
from understudy.pipeline.curve import long_enough, part_order, part_sizes, steps, unhindered
from understudy.pipeline.forecast import fit, forecast
from understudy.pipeline.learning import usd_per_row
from understudy.pipeline.plan import plan
from understudy.pipeline.progress import Reporter
from understudy.pipeline.proof import learning_lines, make_report, publish_report
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.statistics import Interval
from understudy.students.config import StudentRecipe, Train

from .endpoint import Endpoint, Reply, says

ROWS = (625, 1250, 2500, 5000)


def scores(errors: list[float], rows: int, draw: np.random.Generator) -> np.ndarray:
    """Right or wrong, [parts, rows]: parts err by these points, often on the same rows."""
    from scipy.stats import norm

    shared = 0.6**0.5 * draw.standard_normal(rows) + 0.4**0.5 * draw.standard_normal((len(errors), rows))
    return (shared >= norm.ppf(np.array(errors) / 100)[:, None]).astype(float)


def roots(rows: int) -> list[str]:
    return [str(number) for number in range(rows)]


def law(floor: float, scale: float, rate: float) -> list[float]:
    """Errors by the law; the scale is what the last part has above the floor."""
    return [floor + scale * (rows / ROWS[-1]) ** -rate for rows in ROWS]


# --- the curve


@pytest.mark.parametrize(("floor", "scale", "rate"), [(5, 5, 0.5), (0, 8, 0.35), (10, 2, 1.2)])
def test_a_curve_without_noise_is_found_again_and_goes_on_as_it_does(floor, scale, rate):
    errors = np.array(law(floor, scale, rate))

    found = [float(number[0]) for number in fit(np.array(ROWS, float), errors[None], np.ones(4))]

    assert np.abs(np.array(law(*found)) - errors).max() < 0.05
    assert found[1] * (1 - 2 ** -found[2]) == pytest.approx(scale * (1 - 2**-rate), abs=0.05)


def test_the_interval_holds_the_true_gain_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    held = []
    for floor, scale, rate in ((5, 5, 0.5), (0, 8, 0.35), (2, 10, 0.2)):
        truth = scale * (1 - 2**-rate)
        for _ in range(60):
            ahead = forecast(ROWS, scores(law(floor, scale, rate), 2000, draw), roots(2000), resamples=400)
            held.append(ahead.gain.low <= truth <= ahead.gain.high)

    assert 0.84 <= np.mean(held) <= 0.98


def test_what_seeds_differ_by_widens_the_interval():
    answers = scores(law(5, 5, 0.5), 3000, np.random.default_rng(1))

    alone, lucky = (forecast(ROWS, answers, roots(3000), spread=spread).gain for spread in (0.0, 1.0))

    assert lucky.high - lucky.low > 1.3 * (alone.high - alone.low)


def test_rows_that_share_a_root_say_less():
    answers = np.repeat(scores(law(5, 5, 0.5), 500, np.random.default_rng(2)), 6, axis=1)

    alone = forecast(ROWS, answers, roots(3000)).gain
    shared = forecast(ROWS, answers, [str(number // 6) for number in range(3000)]).gain

    assert shared.value == pytest.approx(alone.value, abs=0.02)
    assert shared.high - shared.low > 1.3 * (alone.high - alone.low)


def test_scores_that_do_not_rise_have_no_curve_and_promise_nothing():
    falling = scores([10.0, 10.5, 11.0, 12.0], 3000, np.random.default_rng(3))

    ahead = forecast(ROWS, falling, roots(3000))

    assert ahead.curve is None
    assert ahead.gain.value == ahead.gain.low == 0
    assert ahead.gain.high < 1


def test_two_points_are_no_curve():
    assert forecast(ROWS[:2], np.ones((2, 50)), roots(50)) is None
    assert forecast(ROWS, np.ones((4, 0)), []) is None


def test_a_gain_is_never_more_than_all_that_is_wrong():
    nearly = scores([40.0, 20.0, 5.0, 0.3], 400, np.random.default_rng(4))

    assert forecast(ROWS, nearly, roots(400)).gain.high < 2


# --- the decision


def findings(**changes) -> Findings:
    given = {"rows": 256, "fitted": 99.6, "validation": 90.0, "validation_rows": 400, "ceiling": 97.7}
    return Findings(**{**given, "ceiling_rows": 300, "gain": Interval(1.5, 0.6, 2.9), **changes})


DECISIONS = {
    "rows": ({}, "too_little_data"),
    "nothing, as good as the teacher is to itself": ({"validation": 96.9}, "at_the_ceiling"),
    "rows, though few of them hide a large gap": (
        {"validation": 85.0, "validation_rows": 20, "ceiling_rows": 20, "gain": Interval(4.0, 1.0, 8.0)},
        "too_little_data",
    ),
    "size, by heart": ({"fitted": 61.0}, "too_small"),
    "size, because rows bring nothing": ({"gain": Interval(0.1, 0.0, 0.5)}, "too_small"),
    "rows, where no curve could be drawn": ({"gain": None}, "too_little_data"),
    "rows, where nobody asked the teacher twice": ({"ceiling": None, "ceiling_rows": 0}, "too_little_data"),
}


@pytest.mark.parametrize("missing", DECISIONS)
def test_what_is_missing_is(missing):
    changes, decision = DECISIONS[missing]

    assert capacity(findings(**changes), margin=2.0)["decision"] == decision


def test_the_reason_is_a_sentence_with_the_numbers():
    assert capacity(findings(), margin=2.0)["reason"] == (
        "the student has 99.6% of 256 rows right that it learnt by heart, and 90.0% of rows that it has not seen; "
        "the teacher says the same twice of 97.7%: give it more rows"
    )
    assert capacity(findings(fitted=61.0, unit="tokens"), margin=2.0)["reason"] == (
        "the student has 61.0% of tokens of 256 rows right that it learnt by heart, and 95% are expected: give it more "
        "parameters, and see that train.max_length does not cut off what decides"
    )


def test_one_more_training_row_costs_what_all_that_was_asked_for_it_would_cost_anew():
    manifests = {
        "generate": {"spend": {"requests": 100, "from_ledger": 500, "usd": 0.2}},
        "label": {"spend": {"requests": 0, "from_ledger": 600, "usd": 0.0}},
        "curve": {"summary": {"rows": 400}},
    }

    assert usd_per_row(manifests, usd_per_1000=3.0) == pytest.approx((600 * 0.002 + 600 * 0.003) / 400)
    assert usd_per_row(manifests, usd_per_1000=None) is None
    manifests["generate"]["spend"] |= {"requests": 0, "from_ledger": 600, "usd": 0.0}
    assert usd_per_row(manifests, usd_per_1000=3.0) is None, "nobody saw what writing costs"
    del manifests["generate"]
    assert usd_per_row(manifests, usd_per_1000=3.0) == pytest.approx(600 * 0.003 / 400)


# --- the parts


def examples(count: int, **fields) -> list[Example]:
    return [
        Example(f"r{n}", f"text {n}", "a", **{"root": f"r{n}", "side": "train", "origin": "unlabeled", **fields})
        for n in range(count)
    ]


def test_each_part_holds_the_smaller_ones_whatever_the_order_of_the_rows():
    rows = examples(400)
    order = part_order(rows)
    shuffled = random.Random(0).sample(rows, 400)

    parts = [{row.id for row in shuffled if order[row.id] < size} for size in part_sizes(400)]

    assert [len(part) for part in parts] == [50, 100, 200]
    assert parts[0] < parts[1] < parts[2]
    assert order == part_order(shuffled)
    assert parts[0] != {f"r{n}" for n in range(50)}


def test_rows_of_one_customer_stay_together_and_rows_of_one_seed_do_not():
    theirs = [row for n in range(8) for row in examples(400, root=f"customer {n}")[50 * n : 50 * n + 50]]
    written = [
        row for n in range(8) for row in examples(400, root=f"seed {n}", origin="generated")[50 * n : 50 * n + 50]
    ]

    def roots_of(rows: list[Example]) -> set[str]:
        order = part_order(rows)
        return {row.root for row in rows if order[row.id] < 50}

    assert len(roots_of(theirs)) == 1
    assert len(roots_of(written)) == 8


def test_parts_of_hardly_any_rows_are_left_out():
    assert part_sizes(5000) == [625, 1250, 2500]
    assert part_sizes(200) == [50, 100]
    assert part_sizes(63) == []


def test_the_probe_is_learnt_without_what_hinders_and_for_long_enough():
    student = StudentRecipe(train=Train(labels="soft", epochs=5, batch=64, seeds=[3]))

    train = unhindered(student, 256).train

    assert (train.labels, train.dropout, train.noise, train.epochs) == ("hard", 0.0, 0.0, 75)
    assert (train.batch, train.learning_rate, train.seeds) == (64, student.train.learning_rate, [3])
    assert unhindered(StudentRecipe(train=Train(epochs=200)), 256).train.epochs == 200


def test_a_part_is_not_learnt_in_fewer_steps_than_its_rows_need():
    student = StudentRecipe(train=Train(epochs=5, batch=64))

    assert steps(student, 4531) == 355
    assert [long_enough(student, rows, 300).train.epochs for rows in (566, 1132, 2265, 4531)] == [34, 17, 9, 5]


# --- a real run

LETTERS = random.Random(0)
TEAMS = {
    team: ["".join(LETTERS.sample("abcdefghiklmnoprstuv", 6)) for _ in range(25)]
    for team in ("delivery", "refund", "login")
}
"""Words that say a team, too many for a few rows to have them all."""


def message(label: str, number: int) -> str:
    draw = random.Random(f"{label}/{number}")
    first, *rest = draw.sample(("please", "today", "again", "my", "the", "still", "about", "why"), 4)
    return f"{first} {draw.choice(TEAMS[label])} {' '.join(rest)} {draw.randrange(10**6)}"


def teacher(body: dict) -> Reply:
    text = body["messages"][-1]["content"]
    return says(next(label for label, words in TEAMS.items() if any(word in text for word in words)))


def write(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("curve")
    with Endpoint(then=teacher) as endpoint:
        write(folder, "pool.jsonl", [{"input": message(label, n)} for n in range(100) for label in TEAMS])
        gold = [{"input": message(label, n), "output": label} for n in range(500, 540) for label in TEAMS]
        write(folder, "gold.jsonl", gold)
        write(folder, "other.jsonl", gold[:30])
        lead = {"kind": "openai", "model": "m", "base_url": endpoint.base_url, "price": {"input": 1.0, "output": 2.0}}
        recipe = {
            "name": "drawn",
            "task": {
                "kind": "classify",
                "instruction": "Which team?",
                "labels": list(TEAMS),
                "unlabeled": "pool.jsonl",
                "test": {"gold": "gold.jsonl", "other": "other.jsonl"},
            },
            "teachers": {"lead": lead},
            "student": {"init": {"parameters": "0.3M"}, "train": {"epochs": 4, "batch": 8, "learning_rate": 0.004}},
            "evaluate": {"margin": 10, "curve": True, "second_opinions": 60},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        yield folder, endpoint


@pytest.fixture(scope="module")
def report(job):
    folder, _ = job
    run = opened(folder)
    assert list(plan(run).stages) == ["label", "curate", "train:student", "curve", "evaluate"]
    made = publish_report(run, run_stages(run))
    run.close()
    return made


pytestmark = pytest.mark.slow


def test_the_report_has_a_score_for_every_part_and_the_worth_of_more_rows(report):
    curve = report["curve"]
    total = curve["next"]["rows"]

    assert (curve["student"], curve["test"]) == ("student", "gold")
    assert [point["rows"] for point in curve["points"]] == [total // 8, total // 4, total // 2, total]
    assert curve["points"][-1]["value"] == report["models"]["student"]["score"]["gold"]["value"]
    assert curve["points"][0]["value"] < curve["points"][-1]["value"]
    assert curve["next"]["usd"] == pytest.approx(300 * 11 / 1e6), "for as many rows to train on, as many are labelled"
    low, value, high = (curve["next"]["gain"][end] for end in ("low", "value", "high"))
    assert 0 <= low <= value <= high <= 100


def test_the_report_tells_what_holds_the_student_back(report):
    found = report["capacity"]

    assert found["fitted"] > 97
    assert found["ceiling"] == 100
    assert found["decision"] in ("too_little_data", "at_the_ceiling")
    assert f"{found['validation']:.1f}%" in found["reason"]


def test_the_parts_are_no_models_of_the_report(report):
    assert set(report["models"]) == {"teacher", "student", "untrained", "majority", "neighbour", "linear"}
    assert set(report["models"]["student"]["score"]) == {"gold", "other"}


def test_a_terminal_is_told_in_two_lines(report):
    first, second = learning_lines(report)

    assert first.startswith("rows ")
    assert "more are worth +" in first
    assert first.endswith(" and cost $0.0033")
    assert second == f"{report['capacity']['decision'].replace('_', ' ')}: {report['capacity']['reason']}"


def test_a_run_that_was_stopped_trains_no_part_twice(report, job):
    folder, endpoint = job
    (stage,) = (folder / "root/stages").glob("curve-*")
    assert not (stage / "untrained").exists(), "the one of the train stage counts"
    assert not list(stage.glob("*/work"))
    (stage / "manifest.json").unlink()
    smallest, *finished = sorted(stage.glob("*/trained.json"), key=lambda path: json.loads(path.read_text())["steps"])
    smallest.unlink()
    written = {path: path.stat().st_mtime_ns for path in finished}
    asked = len(endpoint.requests)
    run = opened(folder)

    made = make_report(run, run_stages(run))
    run.close()

    assert smallest.exists()
    assert {path: path.stat().st_mtime_ns for path in finished} == written
    assert (made["curve"], made["capacity"]) == (report["curve"], report["capacity"])
    assert len(endpoint.requests) == asked


def test_without_it_no_stage_is_another_and_the_report_says_nothing(report, job, capsys):
    folder, endpoint = job
    asked = len(endpoint.requests)
    run, plain = opened(folder), opened(folder, "evaluate.curve=false")
    with_it, without = artifacts(run), artifacts(plain)

    made = make_report(plain, run_stages(plain))

    assert set(with_it) - set(without) == {"curve"}
    assert all(with_it[key][1].path == without[key][1].path for key in ("label", "curate", "train:student"))
    assert "curve" not in without["evaluate"][1].manifest()["inputs"]
    assert (made["curve"], made["capacity"]) == (None, None)
    assert learning_lines(made) == []
    for name in ("models", "difference", "agreement"):
        scored = [part[name] if name != "models" else part[name]["student"]["score"] for part in (made, report)]
        assert scored[0] == scored[1]
    assert len(endpoint.requests) == asked
    run.close()
    plain.close()


def test_a_judge_is_not_paid_for_parts_of_a_curve(tmp_path):
    recipe = {
        "name": "judged",
        "task": {"kind": "generate", "instruction": "Answer.", "unlabeled": "pool.jsonl", "scorer": "judge"},
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "student": {},
        "evaluate": {"curve": True, "judge": "people"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=1))

    with pytest.raises(BadInput) as refused:
        load_recipe(path)

    assert str(refused.value).partition(": ")[2] == (
        "evaluate.curve: every part of it would be paid for at the judge's, and task.scorer is judge; remove it, or "
        "choose another scorer"
    )


def test_a_student_that_cannot_tell_its_rows_apart_is_told_to_be_too_small(tmp_path):
    draw = random.Random(0)
    start = "the same words stand at the beginning of every one of these many long messages"
    rows = [{"input": f"{start} {number}", "output": draw.choice(("left", "right"))} for number in range(150)]
    for name, some in (("pool.jsonl", rows), ("answers.jsonl", rows), ("gold.jsonl", rows[:40])):
        write(tmp_path, name, [{"input": row["input"]} for row in some] if name == "pool.jsonl" else some)
    recipe = {
        "name": "blind",
        "task": {
            "kind": "classify",
            "instruction": "Left or right?",
            "labels": ["left", "right"],
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {"init": {"parameters": "0.3M"}, "train": {"epochs": 1, "batch": 8, "max_length": 10}},
        "evaluate": {"curve": True},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run = opened(tmp_path)

    made = publish_report(run, run_stages(run))
    run.close()

    assert made["capacity"]["fitted"] < 70
    assert made["capacity"]["decision"] == "too_small"
    assert "train.max_length does not cut off what decides" in learning_lines(made)[1]
    assert (len(made["curve"]["points"]), made["curve"]["next"]) == (2, None), "two points are no curve"
    assert "The learning curve leaves out parts of 12, 24 rows: under 32 they say nothing." in made["notes"]
