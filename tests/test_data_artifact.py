"""What a stage leaves: shards that are the same on every machine, and a manifest that says when they are whole."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from understudy.data.artifact import PARTITIONS, SHARD_ROWS, Artifact, ShardWriter
from understudy.data.errors import UnderstudyError
from understudy.data.storage import LocalStorage

SCHEMA = pa.schema({"id": pa.string(), "text": pa.string(), "numbers": pa.list_(pa.float32())})


def row(number: int) -> dict:
    return {"id": f"row-{number}", "text": f"text {number} 👍\n\0", "numbers": [float(number)] if number % 3 else None}


def artifact(root: Path) -> Artifact:
    return Artifact(LocalStorage(root), "label", "0123456789abcdef")


def written(root: Path, numbers: range, config: str = "default") -> Artifact:
    made = artifact(root)
    writer = ShardWriter(made, config, SCHEMA)
    for number in numbers:
        writer.add(row(number))
    assert writer.rows == len(numbers)
    made.finish({"shards": {config: writer.close()}})
    return made


def shards(made: Artifact) -> dict[str, str]:
    """Path to digest, as the manifest has them."""
    manifest = made.manifest()
    return {shard["path"]: shard["sha256"] for shard in manifest["shards"]["default"]}


def refusal(made: Artifact) -> str:
    with pytest.raises(UnderstudyError) as caught:
        list(made.rows("default"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_stage_without_a_manifest_is_unfinished(tmp_path):
    made = artifact(tmp_path)
    assert made.manifest() is None
    made.finish({"stage": "label", "rows": 3})
    assert made.manifest() == {"stage": "label", "rows": 3}
    assert made.folder == tmp_path / "stages" / "label-0123456789abcdef"


def test_a_manifest_holds_no_number_that_json_has_no_word_for(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact(tmp_path).finish({"loss": float("nan")})
    assert artifact(tmp_path).manifest() is None


def test_rows_come_back_as_they_went_in_each_exactly_once(tmp_path):
    made = written(tmp_path, range(500))
    read = list(made.rows("default"))
    assert sorted(read, key=lambda one: one["id"]) == sorted(map(row, range(500)), key=lambda one: one["id"])
    assert list(made.rows("rejected")) == []
    assert sum(shard["rows"] for shard in made.manifest()["shards"]["default"]) == 500


def test_configs_of_the_same_rows_are_read_in_step(tmp_path):
    made = artifact(tmp_path)
    writers = {config: ShardWriter(made, config, SCHEMA) for config in ("default", "logprobs")}
    for number in range(300):
        for writer in writers.values():
            writer.add(row(number))
    made.finish({"shards": {config: writer.close() for config, writer in writers.items()}})
    assert [r["id"] for r in made.rows("default")] == [r["id"] for r in made.rows("logprobs")]


def test_the_same_rows_give_the_same_files_at_another_place(tmp_path):
    assert shards(written(tmp_path / "one", range(200))) == shards(written(tmp_path / "two", range(200)))


def test_a_shard_is_named_by_its_content_and_every_partition_has_its_own(tmp_path):
    made = written(tmp_path, range(400))
    assert len(shards(made)) == PARTITIONS
    for path, digest in shards(made).items():
        assert path.startswith("default/part-")
        assert path.endswith(f"-{digest[:16]}.parquet")
    assert sorted(os.listdir(made.folder / "default")) == sorted(Path(path).name for path in shards(made))


def test_appended_rows_leave_full_shards_byte_identical(tmp_path):
    few = range(PARTITIONS * SHARD_ROWS + 3_000)  # enough for a full shard in every partition
    before = shards(written(tmp_path / "before", few))
    after = shards(written(tmp_path / "after", range(len(few) + 2_000)))
    kept = set(before.items()) & set(after.items())
    assert len(kept) >= PARTITIONS - 1
    for path, _ in kept:
        shard = Path("stages/label-0123456789abcdef") / path
        assert (tmp_path / "before" / shard).read_bytes() == (tmp_path / "after" / shard).read_bytes()


def test_a_stage_begun_again_reads_only_what_its_manifest_names(tmp_path):
    stopped = ShardWriter(artifact(tmp_path), "default", SCHEMA)
    for number in range(50):
        stopped.add(row(number))
    stopped.close()  # and no manifest: the process ended here
    made = written(tmp_path, range(20))
    assert sorted(r["id"] for r in made.rows("default")) == sorted(f"row-{n}" for n in range(20))


def test_a_flipped_bit_in_a_shard_is_noticed_before_a_row_is_read(tmp_path):
    made = written(tmp_path, range(100))
    path = made.folder / next(iter(shards(made)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refusal(made) == (
        f"{path}: the content is not what was written; delete {made.folder} and run again: "
        "what was paid for is in the ledger"
    )


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_shard_cut_short_is_noticed(tmp_path, size):
    made = written(tmp_path, range(100))
    path = made.folder / next(iter(shards(made)))
    os.truncate(path, size)
    assert "the content is not what was written" in refusal(made)


def test_a_shard_that_is_gone_is_one_line(tmp_path):
    made = written(tmp_path, range(100))
    path = made.folder / next(iter(shards(made)))
    path.unlink()
    assert refusal(made).startswith(f"{path}: no such file; delete {made.folder} and run again")


@pytest.mark.parametrize("text", ["", "{", '{"shards": '])
def test_a_manifest_that_is_not_json_is_one_line(tmp_path, text):
    made = written(tmp_path, range(3))
    (made.folder / "manifest.json").write_text(text)
    with pytest.raises(UnderstudyError) as caught:
        made.manifest()
    assert str(caught.value).startswith(f"{made.folder}/manifest.json: not valid JSON; delete {made.folder} and run")


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_nothing_half_written(tmp_path):
    made = artifact(tmp_path)
    made.folder.mkdir(parents=True)
    (made.folder / "default").write_text("in the way")
    writer = ShardWriter(made, "default", SCHEMA)
    writer.add(row(1))
    with pytest.raises(UnderstudyError, match=r"part-\d\d-.*: cannot be written: Not a directory; free some space"):
        writer.close()
    assert os.listdir(made.folder) == ["default"]


def test_a_finished_folder_holds_shards_and_manifest_and_nothing_else(tmp_path):
    made = written(tmp_path, range(5))
    assert sorted(os.listdir(made.folder)) == ["default", "manifest.json"]
    assert all(name.startswith("part-") for name in os.listdir(made.folder / "default"))
    assert json.loads((made.folder / "manifest.json").read_text()) == made.manifest()


def test_rows_of_one_side_are_read_from_its_own_shards(tmp_path):
    made = artifact(tmp_path)
    writer = ShardWriter(made, "default", SCHEMA)
    for number in range(300):
        writer.add(row(number), "train" if number % 3 else "test")
    made.finish({"shards": {"default": writer.close()}})

    held_out = {f"row-{number}" for number in range(0, 300, 3)}
    assert {r["id"] for r in made.rows("default", "test")} == held_out
    assert {r["id"] for r in made.rows("default", "train", "test")} == {f"row-{number}" for number in range(300)}
    assert {path.partition("/")[2].partition("-")[0] for path in shards(made)} == {"train", "test"}
    for path in shards(made):  # another side's file is not even opened
        if "/train-" in path:
            (made.folder / path).unlink()
    assert {r["id"] for r in made.rows("default", "test")} == held_out
