"""A repository on a hub: whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from understudy.data.errors import PublishFailed
from understudy.data.hub import HubRepository

from .hub import READS, TOKEN, Fault, Hub, Repository, a_hub

OLD = {"default/train-00-aa.parquet": b"rows", "default/train-01-bb.parquet": b"more", "README.md": b"# one\n"}
NEW = {"default/train-00-aa.parquet": b"rows", "default/train-01-cc.parquet": b"other", "README.md": b"# two\n"}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with a_hub() as state:
        yield state


class Pauses(list):
    """Seconds that were to be waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def repository(hub: Hub, pauses: Pauses | None = None) -> HubRepository:
    return HubRepository(
        "org/tickets",
        "dataset",
        private=True,
        ours=("default/", "logprobs/"),
        endpoint=hub.url,
        pause=pauses if pauses is not None else Pauses(),
    )


def held(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    found = hub.repositories["datasets/org/tickets"].files(revision)
    assert found is not None
    return {path: content for path, content in found[1].items() if path != ".gitattributes"}


def test_a_new_repository_is_private_and_one_commit_has_everything(hub):
    done = repository(hub).publish(OLD, "f00d", "tickets f00d")

    there = hub.repositories["datasets/org/tickets"]
    assert there.private
    assert held(hub) == held(hub, "f00d") == OLD
    assert len(there.commits) == 2, "one that makes the repository, one of ours"
    assert (done.sent, done.kept, done.revision) == (3, 0, there.head)
    assert done.where == f"{hub.url}/datasets/org/tickets/tree/f00d"


def test_published_again_nothing_is_written(hub):
    repository(hub).publish(OLD, "f00d", "n")
    hub.asked.clear()

    done = repository(hub).publish(OLD, "f00d", "n")

    assert (done.sent, done.kept) == (0, 3)
    assert hub.writes() == []


def test_only_what_is_new_is_sent_what_is_gone_is_removed_and_what_others_keep_stays(hub):
    repository(hub).publish(OLD, "f00d", "n")
    there = hub.repositories["datasets/org/tickets"]
    there.commit({**there.commits[-1][1], "NOTES.md": b"by hand"})
    hub.asked.clear()

    done = repository(hub).publish(NEW, "beef", "n")

    assert held(hub) == {**NEW, "NOTES.md": b"by hand"}
    assert done.sent == 2
    assert held(hub, "f00d") == OLD, "the older state keeps its name"
    assert sum(method == "PUT" for method, _ in hub.asked) == 1, "the shard that was there is not sent again"


@pytest.mark.parametrize("status", [429, 500, 503, 0])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/create$"),
        ("POST", "/validate-yaml$"),
        ("GET", "/tree/"),
        ("POST", "/preupload/"),
        ("PUT", "/lfs/"),
        ("POST", "/commit/main"),
        ("GET", "/refs$"),
        ("POST", "/tag/"),
    ],
)
def test_what_passes_is_tried_again(hub, method, path, status):
    hub.faults = [Fault(method, path, status)]

    repository(hub).publish(OLD, "f00d", "n")

    assert held(hub, "f00d") == OLD
    assert len(hub.repositories["datasets/org/tickets"].commits) == 2


def test_a_lost_answer_is_no_second_commit(hub):
    hub.faults = [Fault("POST", "/commit/main", 1)]

    repository(hub).publish(OLD, "f00d", "n")

    assert held(hub, "f00d") == OLD
    assert len(hub.repositories["datasets/org/tickets"].commits) == 2


def test_a_commit_by_somebody_else_is_built_upon(hub):
    repository(hub).publish(OLD, "f00d", "n")
    hub.before_commit = [lambda there: there.commit({**there.commits[-1][1], "NOTES.md": b"meanwhile"})]

    repository(hub).publish(NEW, "beef", "n")

    assert held(hub) == {**NEW, "NOTES.md": b"meanwhile"}


def test_a_hub_that_asks_for_patience_gets_it(hub):
    pauses = Pauses()
    hub.faults = [Fault("POST", "/commit/main", 429, times=2, retry_after="7")]

    repository(hub, pauses).publish(OLD, "f00d", "n")

    assert pauses == [7.0, 7.0]


def test_a_hub_that_stays_silent_is_one_line_and_the_next_run_goes_on(hub):
    pauses = Pauses()
    hub.faults = [Fault("POST", "/commit/main", 500, times=99)]

    with pytest.raises(PublishFailed) as caught:
        repository(hub, pauses).publish(OLD, "f00d", "n")

    assert str(caught.value).startswith("org/tickets: the hub answers 500 (")
    assert str(caught.value).endswith("; run again later")
    assert "\n" not in str(caught.value)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert held(hub) == {}, "nothing can be seen of it"
    hub.faults, hub.asked = [], []
    repository(hub).publish(OLD, "f00d", "n")
    assert held(hub, "f00d") == OLD
    assert not [path for method, path in hub.asked if method == "PUT"], "what arrived is not sent twice"


@pytest.mark.parametrize(("token", "refusal"), [(READS, "403, no right to write"), ("", "401, no right to write")])
def test_a_token_that_may_not_write_is_one_line(hub, monkeypatch, token, refusal):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")

    with pytest.raises(PublishFailed) as caught:
        repository(hub).publish(OLD, "f00d", "n")

    assert str(caught.value) == (
        f"org/tickets: the hub refuses ({refusal}); set HF_TOKEN to a token that may write there, and run again"
    )
    assert caught.value.exit_code == 8


def test_a_repository_that_everybody_can_read_is_not_taken_for_a_private_one(hub):
    open_one = hub.repositories["datasets/org/tickets"] = Repository(private=False)
    open_one.commit({".gitattributes": b""})

    with pytest.raises(PublishFailed) as caught:
        repository(hub).publish(OLD, "f00d", "n")

    assert str(caught.value) == (
        "org/tickets: everybody can read it, and publish.private is true; make it private on the hub, or set "
        "`private: false`"
    )
    assert held(hub) == {}


def test_a_card_that_the_hub_does_not_take_is_one_line(hub):
    hub.card_errors = ['"license" must be one of [apache-2.0, mit]']

    with pytest.raises(PublishFailed) as caught:
        repository(hub).publish(OLD, "f00d", "n")

    assert str(caught.value) == (
        'org/tickets: the hub does not take the card (Invalid metadata in README.md. - "license" must be one of '
        "[apache-2.0, mit]); mend the recipe's `publish` section, and run again"
    )
    assert held(hub) == {}


def test_without_leave_to_go_online_nobody_waits(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pauses = Pauses()

    with pytest.raises(PublishFailed) as caught:
        HubRepository("org/t", "model", private=True, pause=pauses).publish(OLD, "f00d", "n")

    assert str(caught.value) == "org/t: HF_HUB_OFFLINE is set; unset it, and run again"
    assert pauses == []


def test_no_hub_at_all_is_one_line(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    nowhere = HubRepository("org/t", "model", private=True, endpoint="http://127.0.0.1:9", pause=Pauses())

    with pytest.raises(PublishFailed) as caught:
        nowhere.publish(OLD, "f00d", "n")

    assert str(caught.value).startswith("org/t: the hub cannot be reached (")
    assert str(caught.value).endswith("; run again: what arrived is not sent twice")


def test_a_card_made_anew_moves_the_tag(hub):
    repository(hub).publish(OLD, "f00d", "n")

    repository(hub).publish({**OLD, "README.md": b"# says more\n"}, "f00d", "n")

    assert held(hub, "f00d")["README.md"] == b"# says more\n"
