"""What a run says of how its rows were verified, and that personal data is nowhere in all that it leaves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from understudy.pipeline.proof import publish_report
from understudy.pipeline.run import run_stages
from understudy.pipeline.sheet import write_sheet
from understudy.pipeline.use import answers
from understudy.pipeline.verification import verification

from .endpoint import Endpoint, Reply, says
from .test_data_pii import PLANTED, everything_under
from .test_pipeline_stages import Job, asked

pytestmark = pytest.mark.slow

WORDS = {"billing": "invoice", "delivery": "parcel", "other": "thanks"}
TEXTS = [f"{word} {n} of mine {n * n} {n * 37}" for n in range(40) for word in WORDS.values()]


def teacher(body: dict) -> Reply:
    """Labels by the word, of three times once otherwise where a number ends in 7; scores one parcel in two low."""
    text = body["messages"][-1]["content"]
    if "The rubric:" in text:
        return says("2" if "parcel" in text and int(text.partition("parcel ")[2].split()[0]) % 2 else "5")
    drawn[text] += 1
    right = next(label for label, word in WORDS.items() if word in asked(body))
    return says("other" if text.endswith("7") and drawn[text] % 3 == 0 else right)


drawn: Counter[str] = Counter()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A job that has been run whole, its endpoint, and its report."""
    folder = tmp_path_factory.mktemp("verified")
    with Endpoint(then=teacher) as endpoint:
        job = Job(
            folder / "job",
            endpoint.base_url,
            label={"samples": 3, "temperature": 1.0},
            curate={
                "agreement": 0.6,
                "duplicates": {"near": None},
                "judge": {"teacher": "lead", "rubric": "Right.", "minimum": 4},
            },
            student={"init": {"kind": "dense", "parameters": "0.3M"}, "train": {"epochs": 1, "batch": 32}},
            evaluate={"second_opinions": 5},
            publish={"dataset": f"file://{folder}/published", "license": "mit", "when": "always"},
        )
        values = [f"{word} {kind} {value}" for kind, value in PLANTED.items() for word in WORDS.values()]
        job.write("pool.jsonl", [*TEXTS, *(value.replace("parcel", "parcel 2") for value in values)])
        gold = [{"input": f"{text} again", "output": "billing"} for text in values if "invoice" in text]
        job.write("gold.jsonl", [*gold, *({"input": f"an invoice {n} more", "output": "billing"} for n in range(20))])
        job.fields["task"] |= {"pii": "redact", "test": {"gold": "gold.jsonl"}}
        with job.opened() as run:
            manifests = run_stages(run)
            report = publish_report(run, manifests)
            said = list(verification(run, manifests))
            spoken = [text for _, text, _ in answers(run, None, [f"invoice for {PLANTED['email']}"])]
        assert spoken
        yield job, endpoint, report, said, manifests


def test_a_report_and_the_cards_say_how_the_rows_were_verified(made):
    job, _, report, said, manifests = made

    agreement, judged, personal = said
    rows = manifests["label"]["rows"]["accepted"]
    split = round(sum(text.endswith("7") and "thanks" not in text for text in TEXTS) / rows * 100, 1)
    assert 0 < split < 30
    assert agreement.startswith("Of 3 answers to each row ")
    assert f"on {100 - split:.1f}% of rows all do" in agreement
    low = manifests["curate"]["rows"]["rejected"]["judged_low"]
    assert f"{low} had 2" in judged
    assert f"; {low} below 4 were left out." in judged
    assert judged.endswith("It is the labelling teacher itself, lenient with what it would say again.")
    assert personal.startswith("Placeholders such as <email> stand for e-mail addresses")
    assert [note for note in report["notes"] if note in said] == said
    card = (job.folder / "root" / "t" / "card.md").read_text()
    [dataset] = [file.read_text() for file in (job.folder.parent / "published").rglob("README.md")]
    for text in (card, dataset):
        assert "Of 3 answers to each row" in text
        assert "by a rubric, from 1 to 5" in text
        assert "Placeholders such as &lt;email&gt; stand for e-mail addresses" in text


def test_what_the_teacher_prefers_is_published_beside_what_it_said(made):
    from datasets import load_dataset

    job, *_ = made
    [card] = (job.folder.parent / "published").rglob("README.md")
    cache = str(job.folder.parent / "cache")

    pairs = load_dataset(str(card.parent), "preference", split="train", cache_dir=cache)
    rows = load_dataset(str(card.parent), "default", split="train", cache_dir=cache)

    assert pairs.column_names == ["id", "prompt", "chosen", "rejected"]
    assert 0 < len(pairs) < len(rows)
    completions = dict(zip(rows["id"], rows["completion"], strict=True))
    for pair in pairs:
        assert pair["chosen"] == completions[pair["id"]] != pair["rejected"]
    assert "- `preference`: what the teacher said more often and less often" in card.read_text()


def test_personal_data_is_in_no_prompt_and_in_nothing_that_a_run_leaves(made):
    job, endpoint, _, _, _ = made
    with job.opened() as run:
        write_sheet(run, Path(job.folder / "root" / "sample.csv"), 10)
    left = everything_under(job.folder / "root") + everything_under(job.folder.parent / "published")
    prompts = str(endpoint.bodies)

    assert "<email>" in left
    assert "<email>" in prompts
    for value in PLANTED.values():
        assert value not in left
        assert value not in prompts
