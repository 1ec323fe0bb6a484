import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from understudy.data.errors import (
    BadInput,
    BudgetReached,
    NotEnoughData,
    TeacherUnreachable,
    TooManyFailed,
)
from understudy.data.rows import Example, Source
from understudy.data.storage import LocalStorage
from understudy.pipeline.ask import for_each
from understudy.pipeline.context import Run
from understudy.pipeline.examples import CONFIGS, read_examples, read_sources
from understudy.pipeline.generate import read_candidates, read_seeds
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages

from .endpoint import Endpoint, Reply, error, says

LABELS = ("billing", "delivery", "other")
TEXTS = [f"message number {n} about order {n * 7919}" for n in range(120)]


class Job:
    """A recipe on disk with its inputs, and what its stages left."""

    def __init__(self, folder: Path, base_url: str = "", **fields) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        lead = {"kind": "openai", "model": "m", "base_url": base_url, "tries": 1}
        self.fields = {
            "name": "t",
            "task": {
                "kind": "classify",
                "instruction": "Which team?",
                "labels": list(LABELS),
                "unlabeled": "pool.jsonl",
            },
            "teachers": {"lead": lead},
        } | fields

    def write(self, name: str, rows: Iterable) -> None:
        lines = (json.dumps(row if isinstance(row, dict) else {"input": row}) for row in rows)
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    @contextmanager
    def opened(self, *overrides: str, root: str = "root"):
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(self.fields))
        run = Run(load_recipe(path, overrides), LocalStorage(self.folder / root), Reporter())
        try:
            yield run
        finally:
            run.close()

    def run(self, until: str, *overrides: str, root: str = "root") -> dict:
        """The manifest of the last stage."""
        with self.opened(*overrides, root=root) as run:
            return run_stages(run, until)[until]

    def artifact(self, stage: str, *overrides: str, root: str = "root"):
        with self.opened(*overrides, root=root) as run:
            return artifacts(run)[stage][1]

    def rows(self, stage: str, *overrides: str, root: str = "root") -> list[Example]:
        return list(read_examples(self.artifact(stage, *overrides, root=root)))


def asked(body: dict) -> str:
    """The input that a labelling request is about."""
    return body["messages"][-1]["content"].removeprefix("Input: ")


def team(text: str) -> str:
    """A label decided by the text alone."""
    return LABELS[sum(text.encode()) % len(LABELS)]


def labels(body: dict) -> Reply:
    return says(team(asked(body)))


def job(tmp_path: Path, endpoint: Endpoint, texts: Iterable = TEXTS[:30], **fields) -> Job:
    made = Job(tmp_path / "job", endpoint.base_url, **fields)
    made.write("pool.jsonl", texts)
    return made


def check_conservation(made: Job, stage: str, manifest: dict) -> None:
    """What the manifest counts is what the shards hold, and it adds up."""
    rows = manifest["rows"]
    total = rows["accepted"] + sum(rows["rejected"].values()) + sum(rows["failed"].values()) + rows["pending"]
    assert total == rows["requested"]
    artifact = made.artifact(stage)
    held = {config: list(artifact.rows(config)) for config in CONFIGS}
    assert len(held["default"]) == len(held["provenance"]) == rows["accepted"]
    assert Counter(row["reason"] for row in held["rejected"]) == rows["rejected"]
    assert Counter(row["class"] for row in held["failed"]) == rows["failed"]


# --- label


def test_every_input_is_accepted_rejected_or_failed_and_counted_once(tmp_path):
    def reply(body: dict) -> Reply:
        number = int(asked(body).split()[2])
        if number % 10 == 1:
            return says("no idea")
        return says("") if number % 10 == 2 else labels(body)

    with Endpoint(then=reply) as endpoint:
        made = job(tmp_path, endpoint, max_failed=0.2)
        manifest = made.run("label")
    assert manifest["rows"] == {
        "requested": 30,
        "accepted": 24,
        "rejected": {"not_a_label": 3},
        "failed": {"empty": 3},
        "pending": 0,
    }
    check_conservation(made, "label", manifest)
    assert {row.input: row.output for row in made.rows("label")} == {
        text: team(text) for n, text in enumerate(TEXTS[:30]) if n % 10 not in (1, 2)
    }
    assert manifest["summary"]["origins"] == {"generated": 0, "unlabeled": 30}


def test_an_answer_that_cannot_be_used_is_asked_for_again_as_the_next_samples(tmp_path):
    def reply(body: dict) -> Reply:
        return labels(body) if body.get("seed") == 2 else says("well, it depends")

    with Endpoint(then=reply) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:4])
        manifest = made.run("label")
    assert manifest["rows"]["accepted"] == 4
    draws = Counter((body["temperature"], body.get("seed")) for body in endpoint.bodies)
    assert draws == {(0.0, None): 4, (0.7, 1): 4, (0.7, 2): 4}  # a repeated greedy draw would repeat its fault


def test_more_retries_ask_only_for_the_draws_that_are_new(tmp_path):
    def reply(body: dict) -> Reply:
        return says("no idea") if int(asked(body).split()[2]) < 3 else labels(body)

    with Endpoint(then=reply) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:10], label={"retries": 0})
        assert made.run("label")["rows"]["rejected"] == {"not_a_label": 3}
        assert len(endpoint.requests) == 10
        again = made.run("label", "label.retries=1")
        assert len(endpoint.requests) == 13
    assert again["rows"]["rejected"] == {"not_a_label": 3}
    assert (again["spend"]["requests"], again["spend"]["from_ledger"]) == (3, 10)


def test_neither_fewer_retries_nor_another_margin_nor_other_speed_asks_anything(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint)
        made.run("curate")
        assert len(endpoint.requests) == 30
        for change in ("label.retries=0", "label.retries=7", "evaluate.margin=5", "teachers.lead.concurrency=3"):
            assert made.run("curate", change)["rows"]["accepted"] == 30
        assert len(endpoint.requests) == 30
        price = "teachers.lead.price={input: 1, output: 2}"
        assert made.artifact("label").path == made.artifact("label", price).path


def test_one_percent_more_inputs_ask_for_one_percent_more(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:100])
        made.run("label")
        before = made.artifact("label")
        made.write("pool.jsonl", [TEXTS[100], *TEXTS[:100]])
        manifest = made.run("label")
    assert [asked(body) for body in endpoint.bodies[100:]] == [TEXTS[100]]
    assert manifest["rows"]["accepted"] == 101
    old, new = ({shard["sha256"] for shard in made["shards"]["default"]} for made in (before.manifest(), manifest))
    assert len(old - new) == 1  # the shard that the new row went to


def test_of_grown_inputs_it_is_said_what_changed_since_the_last_run_even_after_a_kill(tmp_path, capsys):
    price = {"price": {"input": 1000, "output": 0}}
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:100], curate={"duplicates": {"near": None}})
        made.fields["teachers"]["lead"] |= price
        made.run("curate")
        assert "since the last run" not in capsys.readouterr().err, "there was none"
        made.write("pool.jsonl", [*TEXTS[10:100], *(f"parcel {n} of mine is lost" for n in range(20))])
        made.run("label")  # and is killed here
        capsys.readouterr()
        manifest = made.run("curate")
    said = capsys.readouterr().err
    before, now = (
        Counter(team(text) for text in texts)
        for texts in (TEXTS[:100], [*TEXTS[10:100], *(f"parcel {n} of mine is lost" for n in range(20))])
    )
    moved = {label: now[label] / 110 - before[label] / 100 for label in LABELS}
    first = max(LABELS, key=lambda label: abs(moved[label]))

    assert manifest["rows"]["accepted"] == 110
    assert "since the last run: 110 rows, 100 before: 20 new, 10 gone; 90 of 90 rows in both have the same" in said
    assert f"labels {first} {100 * now[first] / 110:.1f}% ({100 * moved[first]:+.1f})" in said
    made.run("curate")
    assert "since the last run" not in capsys.readouterr().err, "nothing is new"


def test_rows_are_the_same_bytes_whatever_the_concurrency(tmp_path):
    jitter = random.Random(0)

    def reply(body: dict) -> Reply:
        said = labels(body) if jitter.random() > 0.2 or body.get("seed") == 2 else says("hm")
        return Reply(said.body, delay=jitter.random() * 0.02)

    with Endpoint(then=reply) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:60])
        made.run("curate", "teachers.lead.concurrency=64", root="a")
        assert endpoint.most_in_flight > 10
        asked_for = len(endpoint.requests)
        (made.folder / "b").mkdir()
        (made.folder / "a" / "ledger").rename(made.folder / "b" / "ledger")
        made.run("curate", "teachers.lead.concurrency=1", root="b")
        assert len(endpoint.requests) == asked_for
    for stage in ("label", "curate"):
        one, two = (made.artifact(stage, root=root) for root in "ab")
        assert one.manifest()["shards"] == two.manifest()["shards"]
        for config in one.manifest()["shards"].values():
            for shard in config:
                assert (one.folder / shard["path"]).read_bytes() == (two.folder / shard["path"]).read_bytes()


def test_a_greedy_teacher_gives_the_same_rows_in_any_order_of_arrival(tmp_path):
    def jittery(seed: int) -> Callable[[dict], Reply]:
        jitter = random.Random(seed)
        return lambda body: Reply(labels(body).body, delay=jitter.random() * 0.02)

    shards = []
    for root, concurrency in (("a", 1), ("b", 64)):
        with Endpoint(then=jittery(concurrency)) as endpoint:
            made = job(tmp_path, endpoint, TEXTS[:40])
            shards.append(made.run("label", f"teachers.lead.concurrency={concurrency}", root=root)["shards"])
    assert shards[0] == shards[1]


def test_of_several_samples_the_most_frequent_is_taken_and_their_shares_are_probabilities(tmp_path):
    votes = {0: "other", 1: "billing", 2: "billing", 3: "nonsense", 4: "other", 5: "billing"}

    with Endpoint(then=lambda body: says(votes[body["seed"]])) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:2], label={"samples": 5, "temperature": 0.8})
        made.run("label")
    assert len(endpoint.requests) == 12
    for row in made.rows("label"):
        assert row.output == "billing"
        assert row.evidence == "samples"
        # three, none and two of five votes, and one more vote that is spread evenly
        shares = {"billing": (3 + 1 / 3) / 6, "delivery": (1 / 3) / 6, "other": (2 + 1 / 3) / 6}
        assert row.probs == pytest.approx(shares, abs=1e-6)


def test_of_samples_with_equal_votes_the_first_drawn_is_taken(tmp_path):
    with Endpoint(then=lambda body: says(LABELS[2 - body["seed"] % 2])) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:1], label={"samples": 2, "temperature": 0.8})
        made.run("label")
    assert made.rows("label")[0].output == "other"


def test_alternatives_of_the_answer_become_the_teachers_probabilities(tmp_path):
    top = [{"token": "bill", "logprob": -0.223144}, {"token": "deli", "logprob": -1.609438}]
    content = [{"token": "bill", "logprob": -0.223144, "top_logprobs": top}]

    with Endpoint(then=says("billing", logprobs={"content": content})) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:1], label={"logprobs": 2})
        made.run("label")
    (row,) = made.rows("label")
    assert row.evidence == "logprobs"
    assert row.probs == pytest.approx({"billing": 0.8, "delivery": 0.2, "other": 0}, abs=1e-5)


def test_too_many_failures_stop_the_run_and_only_they_are_asked_again(tmp_path):
    broken = {TEXTS[3], TEXTS[7]}

    def reply(body: dict) -> Reply:
        return says("") if asked(body) in broken else labels(body)

    with Endpoint(then=reply) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:20], max_failed=0.05)
        with pytest.raises(TooManyFailed) as caught:
            made.run("label")
        assert caught.value.exit_code == 9
        assert str(caught.value) == (
            "label: 2 of 20 rows failed (empty 2), more than max_failed = 0.05; run again to ask them once more, or "
            "raise max_failed"
        )
        assert made.artifact("label").manifest() is None
        assert len(endpoint.requests) == 20
        broken.clear()
        assert made.run("label")["rows"]["accepted"] == 20
    assert sorted(asked(body) for body in endpoint.bodies[20:]) == sorted([TEXTS[3], TEXTS[7]])


def test_no_more_failures_than_allowed_leave_the_stage_finished(tmp_path):
    with Endpoint(then=lambda body: says("") if asked(body) == TEXTS[3] else labels(body)) as endpoint:
        manifest = job(tmp_path, endpoint, TEXTS[:20], max_failed=0.05).run("label")
    assert manifest["rows"]["failed"] == {"empty": 1}


DOLLAR = {"input": 0.0, "output": 500_000.0}
"""A price at which an answer of the endpoint's two tokens costs one dollar."""


def test_a_budget_is_never_overspent_and_a_higher_one_goes_on_from_there(tmp_path):
    with Endpoint(then=lambda body: Reply(labels(body).body, delay=0.02)) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:30], budget={"usd": 10.5}, label={"max_tokens": 2})
        made.fields["teachers"]["lead"] |= {"price": DOLLAR, "concurrency": 4}
        with pytest.raises(BudgetReached) as caught:
            made.run("label")
        assert caught.value.exit_code == 3
        assert "raise budget.usd and run again" in str(caught.value)
        assert len(endpoint.requests) == 10
        with pytest.raises(BudgetReached):
            made.run("label", "budget.usd=20")
        assert len(endpoint.requests) == 20
        manifest = made.run("label", "budget.usd=1000")
    assert manifest["rows"]["accepted"] == 30
    assert Counter(Counter(asked(body) for body in endpoint.bodies).values()) == {1: 30}  # nothing was asked twice


def test_a_budget_for_one_command_or_one_month_counts_what_it_says(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:30], budget={"usd": 10.5}, label={"max_tokens": 2})
        made.fields["teachers"]["lead"] |= {"price": DOLLAR, "concurrency": 4}
        for per, reached in (("invocation", 10), ("month", 10), ("run", 10), ("invocation", 20)):
            with pytest.raises(BudgetReached):
                made.run("label", f"budget.per={per}")
            assert len(endpoint.requests) == reached


def test_what_an_endpoint_refuses_is_said_once(tmp_path, capsys):
    def reply(body: dict) -> Reply:
        return error(400, "Unsupported parameter: temperature") if "temperature" in body else labels(body)

    with Endpoint(then=reply) as endpoint:
        job(tmp_path, endpoint, TEXTS[:20]).run("label")

    said = capsys.readouterr().err
    assert said.count("teacher lead: the server refused `temperature`") == 1
    assert "it is now left out" in said


def test_a_table_answers_what_is_in_it_and_the_rest_has_failed(tmp_path):
    made = Job(tmp_path / "job", teachers={"lead": {"kind": "table", "model": "answers.jsonl"}}, max_failed=0.5)
    made.write("pool.jsonl", TEXTS[:4])
    made.write("answers.jsonl", ({"input": text.upper(), "output": "other"} for text in TEXTS[:3]))
    manifest = made.run("label")
    assert (manifest["rows"]["accepted"], manifest["rows"]["failed"]) == (3, {"absent": 1})
    check_conservation(made, "label", manifest)


def test_inputs_without_a_word_are_not_enough(tmp_path):
    with Endpoint() as endpoint:
        made = job(tmp_path, endpoint, ["", "  "])
        with pytest.raises(NotEnoughData, match="label: there is no input to label") as caught:
            made.run("label")
    assert caught.value.exit_code == 6
    assert endpoint.requests == []


def test_objects_by_a_schema_are_labels_too(tmp_path):
    schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}

    def reply(body: dict) -> Reply:
        number = int(asked(body).split()[2])
        return says("```json\n" + json.dumps({"number": number if number % 2 else "even"}) + "\n```")

    with Endpoint(then=reply) as endpoint:
        task = {"kind": "extract", "instruction": "?", "schema": schema, "unlabeled": "pool.jsonl"}
        made = job(tmp_path, endpoint, TEXTS[:6], task=task, label={"retries": 0})
        manifest = made.run("curate")
        assert made.run("label")["rows"]["rejected"] == {"not_by_schema": 3}
    assert manifest["rows"]["accepted"] == 3
    assert sorted(row.output for row in made.rows("curate")) == ['{"number": 1}', '{"number": 3}', '{"number": 5}']
    assert endpoint.bodies[0]["response_format"]["json_schema"]["schema"] == schema


# --- generate


PLACES = ["Oslo", "Lima", "Pune", "Nice", "Bonn", "Lyon", "Graz", "Kiel", "Bath", "Bari", "Cork", "Ghent"]
SEEDS = [{"input": f"an example by hand, sent from {place}", "output": LABELS[n % 3]} for n, place in enumerate(PLACES)]


def writer(tmp_path: Path, endpoint: Endpoint, rows: int, folder: str = "job", **fields) -> Job:
    made = Job(tmp_path / folder, endpoint.base_url, generate={"rows": rows}, **fields)
    made.fields["task"] = {key: value for key, value in made.fields["task"].items() if key != "unlabeled"}
    made.fields["task"]["seeds"] = "seeds.jsonl"
    made.write("seeds.jsonl", SEEDS)
    return made


def fresh(body: dict) -> Reply:
    """An input unlike any other, decided by the number of the candidate."""
    words = random.Random(body["seed"])
    return says("Input: " + " ".join(f"w{words.randrange(10_000)}" for _ in range(12)))


def test_as_many_rows_are_written_as_were_asked_for_after_rejection(tmp_path):
    def reply(body: dict) -> Reply:
        return says("the same again and again") if body["seed"] % 4 == 0 else fresh(body)

    with Endpoint(then=reply) as endpoint:
        made = writer(tmp_path, endpoint, 90)
        manifest = made.run("generate")
    rows = manifest["rows"]
    assert rows["accepted"] == 90
    assert rows["rejected"] == {"exact_duplicate": rows["requested"] - 90}
    assert rows["requested"] > 115
    check_conservation(made, "generate", manifest)
    assert len({body["seed"] for body in endpoint.bodies}) == len(endpoint.bodies)


def test_written_rows_are_balanced_over_the_labels_and_carry_the_one_they_were_written_for(tmp_path):
    with Endpoint(then=fresh) as endpoint:
        made = writer(tmp_path, endpoint, 30)
        made.run("generate")
        sources = list(read_sources(made.artifact("generate")))
    assert Counter(source.output for source in sources) == {"billing": 10, "delivery": 10, "other": 10}
    assert not any(source.input.startswith("Input") for source in sources)


def test_what_a_candidate_is_asked_does_not_depend_on_how_many_rows_are_wanted(tmp_path):
    prompts, rows = [], []
    for folder, wanted in (("few", 20), ("many", 70)):
        with Endpoint(then=fresh) as endpoint:
            made = writer(tmp_path, endpoint, wanted, folder)
            made.run("generate")
            prompts.append({body["seed"]: body["messages"] for body in endpoint.bodies})
            rows.append({source.id: source for source in read_sources(made.artifact("generate"))})
    assert all(prompts[1][number] == messages for number, messages in prompts[0].items())
    assert len(rows[0]) == 20
    assert rows[0].items() <= rows[1].items()


def test_more_rows_ask_only_for_the_candidates_that_are_new(tmp_path):
    with Endpoint(then=fresh) as endpoint:
        made = writer(tmp_path, endpoint, 70)
        made.run("generate")
        assert len(endpoint.requests) == 70
        made.run("generate", "generate.rows=100")
    assert Counter(Counter(body["seed"] for body in endpoint.bodies).values()) == {1: len(endpoint.bodies)}
    assert len(endpoint.bodies) >= 100


def test_a_writer_that_repeats_itself_is_not_enough(tmp_path):
    with Endpoint(then=says("always this")) as endpoint:
        made = writer(tmp_path, endpoint, 10)
        with pytest.raises(NotEnoughData) as caught:
            made.run("generate")
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        "generate: 50 candidates gave 1 of 10 rows (50 requested = 1 accepted + 49 rejected (exact_duplicate 49) "
        "+ 0 failed + 0 pending): 'delivery' has 0 of 4, 'other' has 0 of 3, 'billing' has 1 of 3; add seeds, raise "
        "temperature or generate.ceiling, or ask for fewer rows"
    )
    assert len(endpoint.requests) == 50


def test_a_writer_that_fails_stops_the_run(tmp_path):
    with Endpoint(then=lambda body: says("") if body["seed"] % 2 else fresh(body)) as endpoint:
        made = writer(tmp_path, endpoint, 20)
        with pytest.raises(TooManyFailed, match=r"generate: \d+ of \d+ rows failed \(empty \d+\), more than"):
            made.run("generate")


def test_what_a_seed_gives_rise_to_stays_on_its_side_and_so_do_the_examples_shown(tmp_path):
    split = {"test": 0.4, "validation": 0.2, "calibration": 0.0}
    with Endpoint(then=lambda body: fresh(body) if "seed" in body else says("billing")) as endpoint:
        made = writer(tmp_path, endpoint, 60, split=split)
        made.run("label")
        sources = {source.id: source for source in read_sources(made.artifact("generate"))}
        with made.opened() as run:
            seeds = read_seeds(run)
            candidates = read_candidates(run)
    side_of = {seed.input: seed.side for seed in seeds}
    root_side = {seed.root: seed.side for seed in seeds}
    assert len(set(side_of.values())) > 1
    for number in range(60):
        candidate = candidates[number]
        assert {side_of[text] for text in candidate.examples} == {candidate.side}
        assert sources[candidate.id].side == candidate.side
    for row in made.rows("label"):
        assert row.side == root_side[row.root]
    for body in endpoint.bodies:
        shown = {side for text, side in side_of.items() if text in body["messages"][-1]["content"]}
        assert len(shown) <= 1


def test_written_and_given_inputs_are_labelled_together(tmp_path):
    with Endpoint(then=lambda body: fresh(body) if "seed" in body else labels(body)) as endpoint:
        made = writer(tmp_path, endpoint, 12)
        made.fields["task"]["unlabeled"] = "pool.jsonl"
        made.write("pool.jsonl", TEXTS[:8])
        manifest = made.run("label")
    assert manifest["summary"]["origins"] == {"generated": 12, "unlabeled": 8}
    assert Counter(row.origin for row in made.rows("label")) == {"generated": 12, "unlabeled": 8}


# --- sides and curate


def test_a_group_is_never_on_two_sides(tmp_path):
    rows = [{"input": text, "customer": f"c{n % 25}"} for n, text in enumerate(TEXTS)]
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, rows)
        made.fields["task"]["unlabeled"] = {"path": "pool.jsonl", "group": "customer"}
        made.run("label")
    customer = {row["input"]: row["customer"] for row in rows}
    sides: dict[str, set[str]] = {}
    for row in made.rows("label"):
        sides.setdefault(customer[row.input], set()).add(row.side)
    assert len(sides) == 25
    assert all(len(found) == 1 for found in sides.values())
    assert len(set.union(*sides.values())) > 2


def test_rows_go_to_the_sides_by_their_shares_and_to_no_test_where_there_is_gold(tmp_path):
    texts = [f"t{n}" for n in range(1500)]
    made = Job(tmp_path / "job", teachers={"lead": {"kind": "table", "model": "answers.jsonl", "concurrency": 500}})
    made.write("pool.jsonl", texts)
    made.write("answers.jsonl", ({"input": text, "output": team(text)} for text in texts))
    made.run("label")
    shares = Counter(row.side for row in made.rows("label"))
    for side, share in {"test": 0.2, "validation": 0.05, "calibration": 0.1, "train": 0.65}.items():
        assert shares[side] / 1500 == pytest.approx(share, abs=0.04)
    made.fields["task"]["test"] = {"gold": "gold.jsonl"}
    made.write("gold.jsonl", [{"input": "something else", "output": "other"}])
    made.run("label")
    assert set(row.side for row in made.rows("label")) == {"train", "validation", "calibration"}


LONG = (
    "my parcel was sent last tuesday and the tracking page has said out for delivery ever since but nobody came to the "
    "door and when i called the depot they could not find it so please tell me what happens now and whether somebody "
    "pays me back the express fee"
)


def test_nothing_that_repeats_a_gold_row_is_learnt_from(tmp_path):
    copies = [
        LONG,
        LONG.upper() + "!!!",
        LONG.replace("tuesday", "Wednesday"),
        "hello, " + LONG,
        "Where is my parcel?",
        "where is my PARCEL",
    ]
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, [*TEXTS[:20], *copies])
        made.fields["task"]["test"] = {"gold": "gold.jsonl", "more": "more.jsonl"}
        made.write("gold.jsonl", [{"input": LONG, "output": "delivery"}])
        made.write("more.jsonl", [{"input": "Where is my parcel", "output": "delivery"}])
        manifest = made.run("curate")
    assert sorted(row.input for row in made.rows("curate")) == sorted(TEXTS[:20])
    assert manifest["rows"]["rejected"] == {"leak_same": 4, "leak_near": 2}
    check_conservation(made, "curate", manifest)


def test_a_row_that_repeats_one_held_out_is_the_one_that_goes(tmp_path):
    texts = [*TEXTS[:60], *(text.upper() for text in TEXTS[:60])]
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, texts, split={"test": 0.5})
        manifest = made.run("curate")
    assert manifest["rows"]["accepted"] == 60
    kept = made.rows("curate")
    before = {row.input: row.side for row in made.rows("label")}
    order = ["test", "validation", "calibration", "train"]
    for row in kept:
        twin = row.input.lower() if row.input.isupper() else row.input.upper()
        assert order.index(row.side) <= order.index(before[twin])
    assert manifest["rows"]["rejected"]["leak_same"] > 5


def test_nothing_left_to_train_on_is_not_enough(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:3])
        made.fields["task"]["test"] = {"gold": "gold.jsonl"}
        made.write("gold.jsonl", [{"input": text, "output": "other"} for text in TEXTS[:3]])
        with pytest.raises(NotEnoughData, match="curate: no row is left to train on") as caught:
            made.run("curate")
    assert caught.value.exit_code == 6


# --- the runner


def test_a_finished_run_asks_nothing_and_needs_no_endpoint(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint)
        first = made.run("curate")
    again = made.run("curate")
    assert again == first
    assert not (made.folder / "root" / "t" / "lock.json").exists()


def test_a_new_stage_of_a_paid_run_needs_no_endpoint_either(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint)
        made.run("curate")
    assert made.run("curate", "curate.duplicates.near=0.5", "label.retries=1")["spend"]["requests"] == 0


def test_an_endpoint_that_is_gone_stops_the_run_and_what_was_answered_stays(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:10])
        made.run("label")
    made.write("pool.jsonl", TEXTS[:11])
    with pytest.raises(TeacherUnreachable) as caught:
        made.run("label")
    assert caught.value.exit_code == 5
    with Endpoint(then=labels) as endpoint:
        made.fields["teachers"]["lead"]["base_url"] = endpoint.base_url
        made.run("label")
        assert [asked(body) for body in endpoint.bodies] == [TEXTS[10]]


WRONG_GOLD = [{"input": "where is it", "output": "delivery"}, {"input": "my bill is wrong", "output": "biling"}]


def test_a_gold_label_that_is_none_is_refused_before_anything_is_asked(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint)
        made.fields["task"]["test"] = {"gold": "gold.jsonl"}
        made.write("gold.jsonl", WRONG_GOLD)
        with pytest.raises(BadInput) as caught:
            made.run("label")
        assert str(caught.value) == (
            "task.test.gold: gold.jsonl: row 2: the output 'biling' of 'my bill is wrong' is not one of the 3 labels; "
            "did you mean 'billing'?"
        )
        made.write("gold.jsonl", [{"input": "x", "output": "zzz"}])
        with pytest.raises(BadInput, match="'zzz' of 'x' is not one of the 3 labels; correct it, or add it to task"):
            made.run("label")
    assert endpoint.requests == []


def test_a_seed_with_a_wrong_label_is_refused_before_anything_is_asked(tmp_path):
    with Endpoint(then=fresh) as endpoint:
        made = writer(tmp_path, endpoint, 5)
        made.write("seeds.jsonl", WRONG_GOLD)
        with pytest.raises(
            BadInput, match=r"^task\.seeds: seeds\.jsonl: row 2: the output 'biling' of .* 'billing'\?$"
        ):
            made.run("generate")
    assert endpoint.requests == []


def test_a_template_that_names_what_there_is_not_is_refused_before_anything_is_written(tmp_path):
    with Endpoint(then=fresh) as endpoint:
        made = writer(tmp_path, endpoint, 5, prompts={"label": "label.j2"})
        (made.folder / "label.j2").write_text("[user]\n{{ text }}")
        with pytest.raises(
            BadInput, match="'text' is undefined; a template may use input, instruction, keys, labels, schema"
        ):
            made.run("label")
    assert endpoint.requests == []


def test_a_stage_without_its_section_is_refused(tmp_path):
    with Endpoint() as endpoint:
        made = job(tmp_path, endpoint)
        for stage, section in {"generate": "generate", "train": "student", "evaluate": "student"}.items():
            with pytest.raises(BadInput) as caught:
                made.run(stage)
            assert str(caught.value) == (
                f"{made.folder}/recipe.yaml: no `{section}:` section, which '{stage}' needs; add one"
            )


def test_a_recipe_that_changes_under_a_run_is_told_of_once(tmp_path, capsys):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint)
        with made.opened() as run:
            path = made.folder / "recipe.yaml"
            path.write_text(path.read_text() + "\n# another day\n")
            run_stages(run, "curate")
    said = [line for line in capsys.readouterr().err.splitlines() if "changed while" in line]
    assert said == [
        f"{path}: changed while this run is going; the run goes on with the recipe as it was read at the start: run "
        "again for the new one"
    ]


def test_rows_that_were_reordered_or_moved_are_the_same_rows(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:20])
        made.run("label")
        made.write("moved.jsonl", reversed(TEXTS[:20]))
        made.run("label", "task.unlabeled=moved.jsonl")
        assert len(endpoint.requests) == 20


@pytest.mark.slow
def test_a_student_is_trained_without_a_validation_side_and_the_manifest_is_strict_json(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:20], split={"validation": 0}, student={})
        made.fields["student"] = {"init": {"parameters": "0.3M"}, "train": {"epochs": 1, "seeds": [3, 4]}}
        with made.opened() as run:
            manifest = run_stages(run, "train")["train:student"]
    assert manifest["summary"]["chosen"] == 3
    assert [seed["validation_loss"] for seed in manifest["summary"]["seeds"]] == [None, None]


@pytest.mark.slow
def test_soft_labels_that_nobody_gave_are_refused(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:20], student={"train": {"labels": "soft"}})
        with made.opened() as run, pytest.raises(BadInput) as caught:
            run_stages(run, "train")
    assert str(caught.value) == (
        "students.student.train.labels = 'soft', but the teacher gave no probabilities; set label.logprobs or "
        "label.samples above 1, or use labels: auto"
    )


# --- the window


def test_no_more_than_the_window_is_in_flight_and_a_slow_item_holds_one_place():
    most = now = 0
    done: list[int] = []

    async def work(item: int) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1 if item == 0 else 0)
        now -= 1
        done.append(item)

    asyncio.run(for_each(range(50), work, 4))
    assert most == 4
    assert done[-1] == 0
    assert sorted(done) == list(range(50))


def test_the_first_error_stops_the_rest():
    done: list[int] = []

    async def work(item: int) -> None:
        if item == 3:
            raise TeacherUnreachable("gone")
        await asyncio.sleep(0.01 * item)
        done.append(item)

    with pytest.raises(TeacherUnreachable, match="gone"):
        asyncio.run(for_each(range(100), work, 5))
    assert len(done) < 5


def test_a_reached_budget_lets_what_is_in_flight_come_home():
    done: list[int] = []

    async def work(item: int) -> None:
        if item >= 4:
            raise BudgetReached("no more")
        await asyncio.sleep(0.02)
        done.append(item)

    with pytest.raises(BudgetReached, match="no more"):
        asyncio.run(for_each(range(100), work, 5))
    assert sorted(done) == [0, 1, 2, 3]


def test_sources_are_read_as_they_are_needed():
    read: list[int] = []

    def items() -> Iterable[int]:
        for item in range(1000):
            read.append(item)
            yield item

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        if item == 20:
            raise TeacherUnreachable("gone")

    with pytest.raises(TeacherUnreachable):
        asyncio.run(for_each(items(), work, 2))
    assert len(read) < 30


def test_a_source_is_what_a_label_stage_reads_and_an_example_what_it_writes(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, TEXTS[:3])
        with made.opened() as run:
            sources = list(run.unlabeled())
            run_stages(run, "label")
    assert all(isinstance(source, Source) and source.output is None for source in sources)
    assert {(row.id, row.root, row.side) for row in made.rows("label")} == {(s.id, s.root, s.side) for s in sources}


def test_a_control_leaves_its_student_as_it_was_trained(tmp_path):
    made = Job(tmp_path / "job", "http://127.0.0.1:1/v1", student={"init": {"kind": "moe"}})
    made.write("pool.jsonl", TEXTS[:5])
    alone = made.artifact("train:student").fingerprint

    made.fields["student"]["control"] = True

    assert made.artifact("train:student").fingerprint == alone
    assert made.artifact("train:student-control").fingerprint != alone
