"""Looking at rows and ledgers, forgetting a person, and clearing away what nobody needs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, Locked
from understudy.data.ledger import Ledger
from understudy.data.lock import Lock
from understudy.data.storage import LocalStorage
from understudy.jobs.cli import cli
from understudy.pipeline.accounts import books
from understudy.pipeline.examples import read_sources
from understudy.pipeline.generate import read_seeds
from understudy.pipeline.lineage import lineage
from understudy.pipeline.overview import near
from understudy.teachers.recorded import spent_before

from .endpoint import Endpoint, Reply, says
from .test_data_pii import everything_under
from .test_pipeline_curate import is_rubric
from .test_pipeline_stages import TEXTS, Job, asked, fresh, job, labels, team, writer

PERSON = "Jo Example"


def command(*arguments: str) -> int:
    code = cli.main([str(argument) for argument in arguments], standalone_mode=False)
    return code or 0


@pytest.fixture
def endpoint():
    with Endpoint(then=labels) as serving:
        yield serving


@pytest.fixture
def made(tmp_path, endpoint) -> Job:
    """A curated run; one of its rows names a person, and one is a copy."""
    texts = [*TEXTS[:30], TEXTS[0].upper(), f"{PERSON} asks where the parcel is today, and why it is late"]
    price = {"input": 10.0, "output": 10.0}
    lead = {"kind": "openai", "model": "m", "base_url": endpoint.base_url, "price": price}
    made = job(tmp_path, endpoint, texts, teachers={"lead": lead}, curate={"duplicates": {"near": None}})
    made.run("curate")
    return made


def recipe(made: Job) -> tuple[str, ...]:
    return str(made.folder / "recipe.yaml"), "--root", str(made.folder / "root")


def test_an_overview_counts_what_the_shards_hold(made, capsys):
    assert command("data", *recipe(made)) == 0

    said = capsys.readouterr().err
    assert "label: 32 of 32 rows" in said
    assert "curate: 31 of 32 rows" in said
    assert "  rejected, " in said
    assert "  origin: unlabeled 31" in said


def test_an_overview_shows_rows_to_look_at_further(made, capsys):
    command("data", *recipe(made), "-n", 3, "--json")

    shown = capsys.readouterr()
    label, curate, *rows = [json.loads(line) for line in shown.out.splitlines()]
    assert (label["stage"], curate["stage"]) == ("label", "curate")
    assert sum(curate["by"]["side"].values()) == curate["counts"]["accepted"] == 31
    assert [row["id"] for row in rows] == sorted(row.id for row in made.rows("curate"))[:3]
    for row in rows:
        assert f"{row['id']}  {row['side']}" in shown.err
        assert row["input"] in shown.err


def test_no_row_moves_the_cursor_or_turns_a_line_round(tmp_path, endpoint, capsys):
    made = job(tmp_path, endpoint, [*TEXTS[:30], "one \x1b[2J and \u202e two"])
    made.run("label")
    command("data", *recipe(made), "--near", "one and two", "--json")

    shown = capsys.readouterr()
    assert "one \\x1b[2J and \\u202e two" in shown.err
    [event] = [json.loads(line) for line in shown.out.splitlines()]
    assert event["input"] == "one \x1b[2J and \u202e two"


def test_rejected_rows_are_shown_with_their_evidence(made, capsys):
    [reason] = made.artifact("curate").manifest()["rows"]["rejected"]
    command("data", *recipe(made), "--rejected", reason, "--json")

    shown = capsys.readouterr()
    [event] = [json.loads(line) for line in shown.out.splitlines()]
    assert event["stage"] == "curate"
    assert event["evidence"] in shown.err
    with pytest.raises(BadInput) as caught:
        command("data", *recipe(made), "--rejected", "size")
    assert str(caught.value) == f"--rejected size: no row was; rows were for: {reason}"


def test_students_that_read_a_row_are_named(made):
    made.fields["student"] = {"init": {"kind": "dense", "parameters": "0.3M"}}
    student = made.artifact("train:student")
    student.folder.mkdir()
    (student.folder / "manifest.json").write_text(json.dumps({"summary": "trained, for all that data knows"}))
    sides = {row.side: row.id for row in made.rows("curate")}
    said = {"train": "learnt", "validation": "chosen by it, among others", "test": "not read in training"}
    with made.opened() as run:
        for side in sides.keys() & said.keys():
            last = lineage(run, sides[side])[-1]
            assert (last.stage, last.what) == ("train:student", f"{said[side]}: {student.path}")


def test_a_row_is_followed_from_its_root_to_where_it_went(made):
    kept = next(row for row in made.rows("curate") if row.side == "train" and row.input.startswith("message"))
    with made.opened() as run:
        steps = [(step.stage, step.what) for step in lineage(run, kept.id[:10])]

    assert steps == [
        ("root", f"{kept.root}, on the side train, an input of pool.jsonl: {kept.input}"),
        ("label", f"answer 1 of lead: {team(kept.input)}"),
        ("label", f"labelled: {kept.output}"),
        ("curate", "kept, on the side train"),
    ]


def test_a_written_row_is_followed_from_its_seed_through_every_teacher(tmp_path):
    def reply(body: dict) -> Reply:
        if is_rubric(body):
            return says("5")
        return labels(body) if "seed" not in body else fresh(body)

    with Endpoint(then=reply) as serving:
        rubric = {"teacher": "lead", "rubric": "The team is right.", "minimum": 4}
        made = writer(tmp_path, serving, 30, curate={"judge": rubric})
        made.run("curate")
        kept = next(row for row in made.rows("curate") if row.side == "train")
        requests = len(serving.requests)
        with made.opened() as run:
            seed = next(seed for seed in read_seeds(run) if seed.root == kept.root)
            steps = [(step.stage, step.what) for step in lineage(run, kept.id)]
            assert len(serving.requests) == requests, "nobody is asked"

    wanted = next(row.output for row in read_sources(made.artifact("generate")) if row.id == kept.id)
    assert steps == [
        ("root", f"{kept.root}, on the side train, a seed: {seed.input}"),
        ("generate", f"lead wrote: Input: {kept.input}"),
        ("generate", f"written by self-instruct for '{wanted}': {kept.input}"),
        ("label", f"answer 1 of lead: {kept.output}"),
        ("label", f"labelled: {kept.output}"),
        ("curate", "lead as judge: 5 of 5"),
        ("curate", "kept, on the side train"),
    ]


def test_an_input_without_a_label_is_followed_too(tmp_path):
    with Endpoint(then=lambda body: says("no idea") if asked(body) == TEXTS[3] else labels(body)) as serving:
        made = job(tmp_path, serving, TEXTS[:30], max_failed=1, label={"retries": 1})
        made.run("label")
        [lost] = made.artifact("label").rows("rejected")
        with made.opened() as run:
            steps = [(step.stage, step.what) for step in lineage(run, lost["id"])]

    assert steps[0][1].endswith(f", an input of pool.jsonl: {TEXTS[3]}")
    assert steps[1:] == [
        ("label", "answer 1 of lead: no idea"),
        ("label", "answer 2 of lead: no idea"),
        ("label", f"rejected: {lost['reason']} ({lost['evidence']})"),
    ]


def test_a_rejected_row_is_followed_to_its_end(made):
    [lost] = made.artifact("curate").rows("rejected")
    with made.opened() as run:
        steps = lineage(run, lost["id"])

    assert steps[-1].stage == "curate"
    assert steps[-1].what == f"rejected: {lost['reason']} ({lost['evidence']})"


def test_an_id_that_is_none_or_several_is_refused(made):
    with made.opened() as run:
        for prefix, said in (("zz", "no row has an id that begins so"), ("", "32 rows have, such as ")):
            with pytest.raises(BadInput, match=said):
                lineage(run, prefix)


def test_what_is_alike_is_found_by_text_and_by_id(made, capsys):
    asked = "message number 3 about order 23757"
    command("data", *recipe(made), "--near", asked.upper())
    assert "1.00  " in capsys.readouterr().err
    name = next(row.id for row in made.rows("curate") if row.input == asked)
    with made.opened() as run:
        found = near(run, name, 0.3)
        text = near(run, asked, 0.3)
    assert found == [one for one in text if one.id != name]
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_what_curate_dropped_as_a_copy_is_found_beside_what_it_kept(made):
    [lost] = made.artifact("curate").rows("rejected")
    with made.opened() as run:
        copies = near(run, TEXTS[0], 1.0)
    assert {copy.id: copy.became for copy in copies}[lost["id"]] == lost["reason"]
    assert sorted(copy.input for copy in copies) == [TEXTS[0].upper(), TEXTS[0]]


def test_before_any_row_is_written_it_is_one_line(tmp_path, endpoint):
    made = job(tmp_path, endpoint)
    with made.opened(), pytest.raises(BadInput) as caught:
        command("data", *recipe(made))
    assert str(caught.value).endswith("recipe.yaml` has them be")
    assert "no rows are written yet; `understudy label " in str(caught.value)


def test_the_ledger_adds_up_to_what_was_paid(made, capsys):
    assert command("ledger", "--root", made.folder / "root", "--json") == 0

    shown = capsys.readouterr()
    event, whole = [json.loads(line) for line in shown.out.splitlines()]
    assert (event["answers"], event["input_tokens"], event["run"], event["teacher"]) == (32, 32 * 7, "t", "m")
    assert event["usd"] == pytest.approx(32 * 9 * 10 / 1e6)
    assert event["month"] == time.strftime("%Y-%m", time.gmtime())
    size = sum(segment.stat().st_size for segment in (made.folder / "root" / "ledger" / "segments").iterdir())
    assert whole == {"event": "ledger", "records": 32, "segments": 1, "bytes": size, "damaged": 0, "torn": 0}
    assert f"32 records in 1 segments, {size:,} bytes\n" in shown.err


def test_what_is_damaged_or_cut_short_in_the_ledger_is_counted(made, capsys):
    [segment] = (made.folder / "root" / "ledger" / "segments").iterdir()
    segment.write_bytes(segment.read_bytes() + b"00000000 {}\n" + b"cut short")
    command("ledger", "--root", made.folder / "root")
    assert "1 damaged, which are asked again; 9 bytes of unfinished records set aside" in capsys.readouterr().err


def ledger(root: Path) -> Ledger:
    return Ledger(LocalStorage(root))


def paid(root: Path) -> float:
    opened = ledger(root)
    try:
        return spent_before(opened, "t")
    finally:
        opened.close()


def test_without_yes_it_is_only_said_where_a_text_stands(made, capsys):
    root = made.folder / "root"
    before = everything_under(root)

    assert command("ledger", "forget", "--root", root, "--match", PERSON.upper()) == 0

    said = capsys.readouterr().err
    assert "ledger: 1 answers\n" in said
    assert f"{made.artifact('label').path}: the text stands in default/" in said
    assert "nothing is erased: --yes does it" in said
    assert everything_under(root) == before


def test_a_person_is_forgotten_everywhere_and_what_was_paid_stays_counted(made, endpoint, capsys):
    root = made.folder / "root"
    spent = paid(root)

    assert command("ledger", "forget", "--root", root, "--match", PERSON, "--yes") == 0

    assert PERSON not in everything_under(root)
    assert "ledger: 1 answers\n" in capsys.readouterr().err
    assert paid(root) == pytest.approx(spent)
    opened = ledger(root)
    [account] = books(opened).accounts
    assert (account.answers, account.forgotten, account.input_tokens) == (31, 1, 32 * 7)
    opened.close()

    asked = len(endpoint.requests)
    made.write("pool.jsonl", TEXTS[:30])  # the user's own file is the user's to change
    made.run("curate")
    assert len(endpoint.requests) == asked, "all other answers are still known"
    assert command("ledger", "forget", "--root", root, "--match", PERSON) == 0
    assert "it stands nowhere under this root" in capsys.readouterr().err


def test_a_stage_made_from_one_that_holds_the_text_goes_with_it(made):
    from understudy.data.forgetting import find

    root = LocalStorage(made.folder / "root")
    opened = Ledger(root)
    try:
        places = find(root, opened, lambda text: "message number 29 " in text)
        label, curate = made.artifact("label").path, made.artifact("curate").path
        assert set(places.stages) == {label, curate}
        for folder in (made.folder / "root" / curate).glob("*"):
            if folder.is_dir():
                for shard in folder.iterdir():
                    shard.unlink()
        assert find(root, opened, lambda text: "message number 29 " in text).stages[curate] == f"made from {label}"
    finally:
        opened.close()


def test_what_kills_left_half_written_or_half_removed_is_forgotten_too(made):
    root = made.folder / "root"
    [segment] = (root / "ledger" / "segments").iterdir()
    segment.write_bytes(segment.read_bytes() + f'00000000 {{"messages": "{PERSON}"}}\n{{"cut": "{PERSON}'.encode())
    (root / "stages" / ".00112233445566aa" / "default").mkdir(parents=True)
    (root / "stages" / ".00112233445566aa" / "default" / "old.json").write_text(json.dumps(PERSON))
    (root / "t" / ".00112233445566bb").write_text(PERSON)
    half = root / "stages" / ".00112233445566cc"
    half.write_bytes(b"PAR1\xff\xfe of a shard, which nobody can look through")
    other = root / "t" / ".00112233445566dd"
    other.write_text("somebody else's")
    unfinished = root / "stages" / "train-0011223344556677"
    unfinished.mkdir()

    command("ledger", "forget", "--root", root, "--match", PERSON, "--yes")

    assert PERSON not in everything_under(root)
    assert not half.exists()
    assert not unfinished.exists(), "it does not say what it is made from"
    assert other.exists()


class Dying(LocalStorage):
    """Removes so many stages and no more."""

    stages = 1

    def delete(self, path: str) -> None:
        if path.startswith("stages/"):
            if not self.stages:
                raise KeyboardInterrupt
            self.stages -= 1
        super().delete(path)


def test_killed_between_two_stages_the_students_that_are_left_are_found_again(made):
    from understudy.data.forgetting import find, forget

    def matches(text: str) -> bool:
        return PERSON in text

    root = made.folder / "root"
    curate = made.artifact("curate")
    student = root / "stages" / "train-0011223344556677"
    student.mkdir()
    (student / "manifest.json").write_text(json.dumps({"inputs": {"curate": curate.fingerprint}}))
    opened = ledger(root)
    with pytest.raises(KeyboardInterrupt):
        forget(Dying(root), opened, matches, find(Dying(root), opened, matches))
    opened.close()
    assert not student.exists(), "what is made of others goes before them"
    assert curate.folder.is_dir()

    command("ledger", "forget", "--root", root, "--match", PERSON, "--yes")
    assert PERSON not in everything_under(root)


def test_inputs_that_hold_the_text_are_named_and_kept(made, capsys):
    root, pool = made.folder / "root", made.folder / "pool.jsonl"
    command("ledger", "forget", "--root", root, "--match", PERSON, "--yes")

    said = capsys.readouterr().err
    assert f"{pool}: your own input, not changed\n" in said
    assert "erased; change your own inputs, or the next run asks about it again; what is published is not" in said
    assert PERSON in pool.read_text()
    pool.unlink()
    command("ledger", "forget", "--root", root, "--match", PERSON)
    assert f"not looked through: t: task.unlabeled: {pool}: no such file" in capsys.readouterr().err
    (made.folder / "recipe.yaml").unlink()
    command("ledger", "forget", "--root", root, "--match", PERSON)
    assert f"not looked through: t: {made.folder / 'recipe.yaml'}: " in capsys.readouterr().err


def test_an_accent_is_found_however_unicode_spells_it(tmp_path, endpoint, capsys):
    made = job(tmp_path, endpoint, [*TEXTS[:30], "Jose\u0301 waits for an answer"])
    made.run("label")
    command("ledger", "forget", "--root", made.folder / "root", "--match", "JOS\u00c9", "--yes")
    assert "ledger: 1 answers\n" in capsys.readouterr().err
    assert "Jose" not in everything_under(made.folder / "root")


def test_the_root_may_stand_before_the_word_forget(made, capsys):
    command("ledger", "--root", made.folder / "root", "forget", "--match", PERSON)
    assert "ledger: 1 answers\n" in capsys.readouterr().err


def test_a_regular_expression_finds_too_and_a_bad_one_is_refused(made, capsys):
    root = made.folder / "root"
    command("ledger", "forget", "--root", root, "--match", r"jo\s+ex\w+", "--regex")
    assert "ledger: 1 answers" in capsys.readouterr().err
    refused = {
        "(": "--match '(': not a regular expression: ",
        " ": "--match: is empty, and so in every text",
        "x*": "--match 'x*': fits the empty text, and so every text; make it say more",
    }
    for match, said in refused.items():
        with pytest.raises(BadInput) as caught:
            command("ledger", "forget", "--root", root, "--match", match, "--regex")
        assert str(caught.value).startswith(said)


def test_nothing_is_erased_or_removed_under_a_run(made):
    root = made.folder / "root"
    with Lock(LocalStorage(root), "t/lock.json"):
        for arguments in (("ledger", "forget", "--match", PERSON), ("gc",)):
            with pytest.raises(Locked):
                command(*arguments, "--root", root, "--yes")
    assert PERSON in everything_under(root)


def test_nothing_is_erased_while_anybody_writes_to_the_ledger(made):
    root = made.folder / "root"
    before = everything_under(root)
    [segment] = (root / "ledger" / "segments").iterdir()
    with open(segment, "ab") as writing:  # as `preview` does, which holds no job's lock
        fcntl.flock(writing, fcntl.LOCK_EX)
        with pytest.raises(Locked) as caught:
            command("ledger", "forget", "--root", root, "--match", PERSON, "--yes")
    assert str(caught.value) == (
        f"ledger/segments/{segment.name}: a command that asks teachers is writing to it; wait for it to end"
    )
    assert everything_under(root) == before


_KILLED = """
import os, signal, sys
from understudy.data import ledger as module
from understudy.data.storage import LocalStorage
class Dying(LocalStorage):
    def put_file(self, local, path):
        if sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().put_file(local, path)
        os.kill(os.getpid(), signal.SIGKILL)
module.Ledger(Dying(sys.argv[1])).erase(lambda record: "Jo Example" in str(record.body))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_forgetting_the_ledger_is_whole_and_the_next_time_completes_it(made, moment):
    root = made.folder / "root"
    code = _KILLED.replace("Dying(sys.argv[1])", "Dying(__import__('pathlib').Path(sys.argv[1]))")
    done = subprocess.run([sys.executable, "-c", code, str(root), moment], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL

    opened = ledger(root)
    assert (len(list(opened.records())), opened.damaged_records) == (32, 0)
    opened.close()
    command("ledger", "forget", "--root", root, "--match", PERSON, "--yes")
    assert PERSON not in everything_under(root)


def test_what_no_last_run_needs_is_listed_and_removed(made, capsys):
    root = made.folder / "root"
    old = made.artifact("curate").path
    made.run("curate", "curate.duplicates.near=0.7")
    (root / "stages" / ".abcdef0123456789").write_bytes(b"half")
    os.utime(root / "stages" / ".abcdef0123456789", (0, 0))

    assert command("gc", "--root", root) == 0
    said = capsys.readouterr().err
    assert f"{old}: " in said
    assert "no job's last run names it" in said
    assert "2 leftovers, " in said
    assert (root / old).is_dir()

    assert command("gc", "--root", root, "--yes") == 0
    assert not (root / old).exists()
    assert not (root / "stages" / ".abcdef0123456789").exists()
    assert made.run("curate", "curate.duplicates.near=0.7")["rows"]["accepted"]
    capsys.readouterr()
    command("gc", "--root", root)
    assert "0 leftovers, 0 bytes" in capsys.readouterr().err


def test_what_kills_left_is_removed_and_answers_stay(made, capsys):
    root = made.folder / "root"
    half_removed = root / "stages" / ".00112233445566aa"
    half_removed.mkdir()
    (half_removed / "manifest.json").write_text("{}")
    os.utime(half_removed / "manifest.json", (0, 0))
    (root / "t" / ".00112233445566bb").write_text("being written right now")
    (root / ".gitignore").write_text("*")
    os.utime(root / ".gitignore", (0, 0))
    [segment] = (root / "ledger" / "segments").iterdir()
    answers = segment.read_bytes()
    segment.write_bytes(answers + b"cut short")
    command("ledger", "--root", root)

    command("gc", "--root", root, "--yes")

    said = capsys.readouterr().err
    assert "stages/.00112233445566aa: 2 bytes, " in said
    assert ": 9 bytes, 0 days old; the end of a killed writer's file, which is no whole answer" in said
    assert "2 leftovers, 11 bytes removed" in said
    assert not half_removed.exists()
    assert (root / "t" / ".00112233445566bb").exists()
    assert (root / ".gitignore").exists()
    assert segment.read_bytes() == answers


def test_a_run_that_finds_all_done_names_its_stages_again(made):
    root = made.folder / "root"
    old = made.artifact("curate").path
    made.run("curate", "curate.duplicates.near=0.7")
    made.run("curate")
    command("gc", "--root", root, "--yes")
    assert (root / old).is_dir()
    assert not (root / made.artifact("curate", "curate.duplicates.near=0.7").path).exists()


def test_nothing_is_removed_while_it_is_not_known_what_a_job_needs(made):
    root = made.folder / "root"
    (root / "t" / "stages.json").unlink()
    with pytest.raises(BadInput) as caught:
        command("gc", "--root", root)
    assert str(caught.value) == (f"{root / 't'}: has no stages.json, so what it needs is not known; run that job again")


def test_a_root_that_is_not_there_is_one_line(tmp_path):
    for arguments in (("gc",), ("ledger",), ("ledger", "forget", "--match", "x")):
        with pytest.raises(BadInput) as caught:
            command(*arguments, "--root", tmp_path / "none")
        assert str(caught.value) == (
            f"{tmp_path / 'none'}: no such root; give the one that runs named in their first line, with --root"
        )
    assert not (tmp_path / "none").exists()
