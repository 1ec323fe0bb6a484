"""Which rows a student may learn from: agreement, leaks, filters and a judge, and that every row is accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from understudy.data.errors import BadInput, TooManyFailed
from understudy.data.sides import Split, side_of
from understudy.pipeline.plan import plan

from .endpoint import Endpoint, Reply, error, says
from .test_pipeline_stages import TEXTS, Job, asked, check_conservation, job, labels

SIDES = {"test": 0.2, "validation": 0.1, "calibration": 0}


def is_rubric(body: dict) -> bool:
    return "The rubric:" in body["messages"][-1]["content"]


def judge(score) -> object:
    """A teacher that labels as before, and scores what it is asked to."""

    def reply(body: dict) -> Reply:
        return score(body["messages"][-1]["content"]) if is_rubric(body) else labels(body)

    return reply


RUBRIC = {"teacher": "lead", "rubric": "The team is right.", "minimum": 4}


def low_for_even(text: str) -> Reply:
    number = int(text.partition("message number ")[2].split()[0])
    return says("2" if number % 2 == 0 else "5")


def test_a_judge_rejects_what_falls_below_the_minimum_and_leaves_the_test_side_alone(tmp_path, capsys):
    with Endpoint(then=judge(low_for_even)) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:60], split=SIDES, curate={"judge": RUBRIC, "duplicates": {"near": None}})
        manifest = made.run("curate")
        rubrics = [one for one in endpoint.requests if is_rubric(one.body)]

    kept = made.rows("curate")
    for row in kept:
        assert row.side == "test" or int(row.input.split()[2]) % 2 == 1
    before = Counter(row.side for row in made.rows("label"))
    assert Counter(row.side for row in kept)["test"] == before["test"]
    assert len(rubrics) == before.total() - before["test"], "nothing is paid for about the test side"
    scores = manifest["summary"]["judge"]["scores"]
    assert scores["2"] == manifest["rows"]["rejected"]["judged_low"]
    assert scores["5"] + before["test"] == manifest["rows"]["accepted"]
    assert manifest["summary"]["judge"]["is_the_teacher"]
    assert "the judge is the labelling teacher itself" in capsys.readouterr().err
    check_conservation(made, "curate", manifest)


def test_what_is_rejected_for_nothing_is_not_judged(tmp_path):
    with Endpoint(then=judge(lambda text: says("5"))) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            [*TEXTS[:20], *(text.upper() for text in TEXTS[:20])],
            split={"test": 0, "validation": 0, "calibration": 0},
            curate={
                "judge": RUBRIC,
                "duplicates": {"near": None},
                "filters": [{"kind": "pattern", "of": "input", "must_not": "number 1"}],
            },
        )
        manifest = made.run("curate")
        rubrics = [one for one in endpoint.requests if is_rubric(one.body)]
        made.run("curate", "curate.judge.minimum=3")
        again = [one for one in endpoint.requests if is_rubric(one.body)]

    assert set(manifest["rows"]["rejected"]) == {"pattern", "exact_duplicate"}
    assert len(rubrics) == manifest["rows"]["accepted"]
    assert len(again) == len(rubrics), "another minimum pays for nothing again"


def test_a_judge_that_thinks_first_is_given_room(tmp_path):
    def score(text: str) -> Reply:
        return says("<think>The team is right, and so it is a 1, or rather</think>5")

    with Endpoint(then=judge(score)) as endpoint:
        made = job(
            tmp_path, endpoint, TEXTS[:10], split={"test": 0, "validation": 0, "calibration": 0},
            curate={"judge": {**RUBRIC, "max_tokens": 4000}, "duplicates": {"near": None}},
        )  # fmt: skip
        manifest = made.run("curate")
        asked_for = {one.body["max_tokens"] for one in endpoint.requests if is_rubric(one.body)}

    assert asked_for == {4000}
    assert manifest["summary"]["judge"]["scores"]["5"] == 10


@pytest.mark.parametrize("said", ["excellent", "11"])
def test_a_score_that_cannot_be_read_is_a_rejected_row(tmp_path, said):
    with Endpoint(then=judge(lambda text: says(said))) as endpoint:
        made = job(
            tmp_path, endpoint, TEXTS[:10], split={"test": 0.4, "validation": 0, "calibration": 0},
            curate={"judge": {**RUBRIC, "minimum": 2}},
        )  # fmt: skip
        with pytest.raises(Exception, match=r"curate: no row is left to train on \(.*not_a_score"):
            made.run("curate")


def test_a_judge_that_fails_stops_the_stage_and_the_next_run_goes_on(tmp_path):
    broken = [True]

    def score(text: str) -> Reply:
        return error(400, "no") if broken[0] and "number 7 " in text else says("5")

    with Endpoint(then=judge(score)) as endpoint:
        made = job(
            tmp_path, endpoint, TEXTS[:20], split={"test": 0, "validation": 0, "calibration": 0},
            curate={"judge": RUBRIC, "duplicates": {"near": None}},
        )  # fmt: skip
        with pytest.raises(TooManyFailed, match="curate: 1 of 20 rows failed"):
            made.run("curate")
        broken[0] = False
        before = len(endpoint.requests)
        manifest = made.run("curate")

    assert manifest["rows"]["accepted"] == 20
    assert len(endpoint.requests) == before + 1


def sampled(body: dict) -> Reply:
    """Sure about even numbers, and split about odd ones."""
    number = int(asked(body).split()[2])
    draws[number] += 1
    return says("billing" if number % 2 == 0 or draws[number] % 3 else "delivery")


draws: Counter[int] = Counter()


def test_rows_about_which_the_teacher_disagrees_with_itself_go_and_the_votes_are_kept(tmp_path):
    draws.clear()
    with Endpoint(then=sampled) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            TEXTS[:40],
            split=SIDES,
            label={"samples": 3, "temperature": 1.0},
            curate={"agreement": 0.7, "duplicates": {"near": None}},
        )
        manifest = made.run("curate")

    shares = {int(row.input.split()[2]): row.agreement for row in made.rows("label")}
    for number, share in shares.items():
        assert share == pytest.approx(1.0 if number % 2 == 0 else 2 / 3)
    for row in made.rows("curate"):
        assert row.side == "test" or row.agreement == 1.0
    low = [row for row in made.rows("label") if row.agreement < 0.7 and row.side != "test"]
    assert manifest["rows"]["rejected"] == {"low_agreement": len(low)}
    [evidence] = {row["evidence"][:22] for row in made.artifact("curate").rows("rejected")}
    assert evidence == "2 of 3 said 'billing' "
    agreement = made.artifact("label").manifest()["summary"]["agreement"]
    assert agreement["mean"] == pytest.approx(5 / 6)
    assert agreement["rows"] == {"1.000": 20, "0.667": 20}


def test_rows_on_which_the_teacher_differs_say_what_it_prefers(tmp_path):
    draws.clear()
    with Endpoint(then=sampled) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:40], split=SIDES, label={"samples": 3, "temperature": 1.0})
        made.run("curate")

    pairs = {row["id"]: row for row in made.artifact("curate").rows("preference")}
    rows = {row.id: row for row in made.rows("curate")}
    assert pairs.keys() == {row.id for row in rows.values() if row.agreement < 1.0}
    assert len(pairs) == 20
    for name, pair in pairs.items():
        assert (pair["prompt"], pair["chosen"]) == (rows[name].input, rows[name].output)
        assert pair["rejected"] == rows[name].outvoted != pair["chosen"]
    on_train = {pair["id"] for pair in made.artifact("curate").rows("preference", "train")}
    assert on_train == {name for name in pairs if rows[name].side == "train"}


def test_as_many_answers_for_one_as_for_another_prefer_nothing(tmp_path):
    spelt = iter(["billing", "delivery"] * 9)
    with Endpoint(then=lambda body: says(next(spelt))) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:1], label={"samples": 2, "temperature": 1.0})
        made.run("label")

    [row] = made.rows("label")
    assert (row.output, row.agreement, row.outvoted) == ("billing", 0.5, None)
    assert "preference" not in made.artifact("label").manifest()["shards"]


def test_an_answer_that_cannot_be_used_agrees_with_nothing(tmp_path):
    with Endpoint(then=lambda body: says("billing" if body.get("seed") == 1 else "who knows")) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:2], label={"samples": 3, "temperature": 1.0})
        made.run("label")
    assert [row.agreement for row in made.rows("label")] == [pytest.approx(1 / 3)] * 2


def test_free_text_agrees_by_its_words(tmp_path):
    spelt = iter(["In two days.", "in two days", "Tomorrow"] * 3)
    with Endpoint(then=lambda body: says(next(spelt))) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            TEXTS[:1],
            task={"kind": "generate", "instruction": "x", "unlabeled": "pool.jsonl"},
            label={"samples": 3, "temperature": 1.0},
        )
        made.run("label")
    [row] = made.rows("label")
    assert row.agreement == pytest.approx(2 / 3)
    assert (row.output, row.outvoted) == ("In two days.", "Tomorrow")


def test_json_that_says_the_same_in_another_order_votes_together(tmp_path):
    spelt = iter(['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 9, "b": 9}'] * 9)
    with Endpoint(then=lambda body: says(next(spelt))) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            TEXTS[:1],
            task={"kind": "extract", "instruction": "x", "schema": {"type": "object"}, "unlabeled": "pool.jsonl"},
            label={"samples": 3, "temperature": 1.0},
        )
        made.run("label")

    [row] = made.rows("label")
    assert json.loads(row.output) == {"a": 1, "b": 2}
    assert row.agreement == pytest.approx(2 / 3)


def on(side: str, count: int) -> list[str]:
    """Messages that the split puts on a side."""
    from understudy.data.fingerprint import row_id

    split = Split(**SIDES)
    words, draw = [f"{one}{two}" for one in ("sun", "lamp", "road", "box") for two in range(40)], random.Random(0)
    found = (" ".join(draw.sample(words, 8)) for _ in range(5000))
    chosen = [text for text in found if side_of(row_id("unlabeled", text), split, gold=False) == side]
    return chosen[:count]


def test_a_training_row_that_holds_a_test_row_is_a_leak_with_the_pair_shown(tmp_path):
    held_out, learnt = on("test", 5), on("train", 3)
    inside = [f"good morning to all of you {text} please answer me soon" for text in held_out]
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, [*held_out, *inside, *learnt[:1]], split=SIDES)
        manifest = made.run("curate")

    kept = {row.input for row in made.rows("curate") if row.side != "test"}
    assert not kept & set(inside)
    compared = manifest["summary"]["contamination"]
    assert compared["compared"] == sum(row.side != "test" for row in made.rows("label"))
    found = compared["tests"]["held out"]
    assert found["texts"] == sum(row.side == "test" for row in made.rows("curate"))
    assert found["found"] == {"same": 0, "near": 0, "inside": manifest["rows"]["rejected"]["leak_inside"]}
    assert found["found"]["inside"] >= 3
    pair = found["pairs"][0]
    assert pair["kind"] == "inside"
    assert pair["row"] == f"good morning to all of you {pair['text']} please answer me soon"


def test_leaks_of_a_gold_test_are_left_out_by_kind_and_told_in_the_manifest(tmp_path):
    texts = on("train", 40)
    gold, others = texts[:30], texts[30:]
    same = [text.upper() + "!" for text in gold[:10]]
    near = [" ".join(["other", *text.split()[1:]]) for text in gold[10:20]]
    inside = [f"good morning to all of you {text} please answer me soon" for text in gold[20:]]
    with Endpoint(then=labels) as endpoint:
        made = job(
            tmp_path, endpoint, [*same, *near, *inside, *others], split={"validation": 0, "calibration": 0},
            curate={"duplicates": {"near": None}},
        )  # fmt: skip
        made.fields["task"]["test"] = {"gold": "gold.jsonl"}
        made.write("gold.jsonl", [{"input": text, "output": "billing"} for text in gold])
        manifest = made.run("curate")

    assert {row.input for row in made.rows("curate")} == set(others)
    assert manifest["rows"]["rejected"] == {"leak_same": 10, "leak_near": 10, "leak_inside": 10}
    leaks = manifest["summary"]["contamination"]
    assert leaks["compared"] == 40
    assert leaks["tests"]["gold/gold"]["found"] == {"same": 10, "near": 10, "inside": 10}
    assert len(leaks["tests"]["gold/gold"]["pairs"]) == 5
    check_conservation(made, "curate", manifest)


def test_benchmarks_of_others_are_compared_with_and_named(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            TEXTS[:30],
            split={"test": 0, "validation": 0, "calibration": 0},
            curate={"decontaminate": {"files": ["bench*.jsonl"]}, "duplicates": {"near": None}},
        )
        made.write("bench1.jsonl", [{"id": 1, "text": TEXTS[3].upper()}, {"id": 2, "text": TEXTS[4]}])
        made.write("bench2.jsonl", [{"id": 1, "text": TEXTS[5]}])
        manifest = made.run("curate")
        made.write("bench1.jsonl", [{"text": TEXTS[3]}])
        fewer = made.run("curate")
        off = made.run("curate", "curate.decontaminate=null")

    assert manifest["rows"]["rejected"] == {"leak_same": 3}
    found = manifest["summary"]["contamination"]["tests"]
    assert {name: (test["texts"], test["found"]["same"]) for name, test in found.items()} == {
        "bench1.jsonl": (2, 2),
        "bench2.jsonl": (1, 1),
    }
    assert fewer["rows"]["rejected"] == {"leak_same": 2}, "a changed benchmark is compared with anew"
    assert off["rows"]["accepted"] == 30
    assert off["summary"]["contamination"] is None


def test_a_function_that_changed_decides_anew(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(
            tmp_path,
            endpoint,
            TEXTS[:10],
            split={"test": 0, "validation": 0, "calibration": 0},
            curate={"filters": [{"kind": "function", "path": "checks.py:ok"}], "duplicates": {"near": None}},
        )
        (made.folder / "checks.py").write_text("def ok(input, output):\n    return 'number 3 ' not in input\n")
        first = made.run("curate")
        (made.folder / "checks.py").write_text("def ok(input, output):\n    return True\n")
        second = made.run("curate")

    assert first["rows"]["rejected"] == {"function": 1}
    assert second["rows"]["accepted"] == 10


def test_what_curation_cannot_do_is_refused_before_anything_is_asked(tmp_path):
    with Endpoint(then=labels) as endpoint:
        for curate, said in (
            ({"agreement": 0.6}, "curate.agreement: needs several answers to each row, and label.samples = 1; set"),
            ({"judge": {**RUBRIC, "teacher": "x"}}, "curate.judge.teacher: 'x' is no teacher of this recipe; defined:"),
            ({"filters": [{"kind": "pattern", "must": "("}]}, "'(' is not a regular expression"),
            ({"filters": [{"kind": "function", "path": "no.py:f"}]}, "no.py: cannot be read: No such file"),
            ({"decontaminate": {"files": ["none.jsonl"]}}, "curate.decontaminate.files: "),
            ({"decontaminate": {"files": ["blank.jsonl"]}}, "blank.jsonl: holds no rows"),
            ({"filters": [{"kind": "language", "only": ["qq"]}]}, "curate.filters: language 'qq' is not known"),
            ({"filters": [{"kind": "size"}]}, "has kind = 'size'; expected one of "),
        ):
            made = job(tmp_path, endpoint, curate=curate)
            made.write("blank.jsonl", [" "])
            with pytest.raises(BadInput) as caught:
                made.run("curate")
            assert said in str(caught.value)
            assert "\n" not in str(caught.value)
        assert endpoint.requests == []


def test_the_plan_counts_what_a_judge_will_be_asked(tmp_path):
    made = Job(tmp_path / "job", "http://127.0.0.1:9/v1", curate={"judge": RUBRIC})
    made.write("pool.jsonl", TEXTS[:50])
    with made.opened() as run:
        counted = {part.stage: part.requests for part in plan(run).asked}
        held_out = sum(row.side == "test" for row in run.unlabeled())
    assert held_out > 0
    assert counted == {"label": 50, "curate": 50 - held_out}
