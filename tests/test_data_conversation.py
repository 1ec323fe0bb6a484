"""Conversations: read from datasets as one text, and written by a teacher in turns."""

from __future__ import annotations

import pytest

from understudy.data.conversation import is_asked, messages_in, transcript, turns_of
from understudy.data.errors import BadInput

from .endpoint import Endpoint, says
from .test_pipeline_stages import Job, check_conservation

TURNS = [("user", "where is it?"), ("assistant", "on its way.\nWhich one do you mean?"), ("user", "the red one")]


def test_a_transcript_is_read_back_as_the_turns_it_was_made_of():
    assert transcript(TURNS) == "user: where is it?\nassistant: on its way.\nWhich one do you mean?\nuser: the red one"
    assert turns_of(transcript(TURNS)) == TURNS
    assert turns_of("USER :  hello\nAssistant: hi") == [("user", "hello"), ("assistant", "hi")]
    assert turns_of("hello\nuser: hi") == []
    assert turns_of("") == []


def test_only_a_list_of_roles_and_contents_is_a_conversation():
    assert messages_in([{"role": role, "content": content} for role, content in TURNS]) == TURNS
    for value in (None, "user: a", [], ["a"], [{"role": "user"}], [{"role": 1, "content": "a"}], {"role": "user"}):
        assert messages_in(value) is None


def test_user_and_assistant_speak_by_turns_and_the_user_last():
    assert is_asked(TURNS, 3)
    assert not is_asked(TURNS, 5)
    assert not is_asked(TURNS[1:], 2)
    assert not is_asked([("user", "a"), ("user", "b"), ("user", "c")], 3)
    assert not is_asked([("user", "a"), ("assistant", ""), ("user", "c")], 3)


def test_messages_of_a_dataset_reach_the_teacher_as_a_transcript(tmp_path):
    with Endpoint(then=lambda body: says("billing")) as endpoint:
        made = Job(tmp_path / "job", endpoint.base_url)
        made.write("pool.jsonl", [{"messages": [{"role": role, "content": said} for role, said in TURNS]}])
        made.run("label")

    [row] = made.rows("label")
    assert row.input == transcript(TURNS)
    assert transcript(TURNS) in endpoint.requests[0].body["messages"][-1]["content"]


def test_a_teacher_writes_conversations_and_what_is_none_is_rejected(tmp_path):
    said = iter(range(10_000))

    def reply(body: dict):
        asked = body["messages"][0]["content"]
        if "You write realistic inputs" not in asked:
            return says("billing")
        assert "An input is a conversation of 3 messages" in asked
        number = next(said)
        return says(
            "just one line" if number % 4 == 0 else f"User: order {number}?\nassistant: yes?\nuser: it is {number}"
        )

    with Endpoint(then=reply) as endpoint:
        made = Job(tmp_path / "job", endpoint.base_url, generate={"rows": 9}, curate={"duplicates": {"near": None}})
        del made.fields["task"]["unlabeled"]
        made.fields["task"] |= {"turns": 3, "seeds": "seeds.jsonl"}
        made.write(
            "seeds.jsonl", [{"input": transcript(TURNS), "output": "billing"}, {"input": "b", "output": "other"}]
        )
        manifest = made.run("generate")
        made.run("label")

    assert manifest["rows"]["accepted"] == 9
    assert manifest["rows"]["rejected"]["not_a_conversation"] >= 1
    for row in made.rows("label"):
        assert is_asked(turns_of(row.input), 3)
        assert row.input.startswith("user: order ")
    check_conservation(made, "generate", manifest)


def test_a_conversation_that_ends_with_the_assistant_is_refused(tmp_path):
    made = Job(tmp_path / "job")
    made.fields["task"]["turns"] = 4
    with pytest.raises(BadInput) as caught, made.opened():
        pass
    assert "task.turns: 4 messages end with the assistant's, and nothing is asked; use 5" in str(caught.value)
