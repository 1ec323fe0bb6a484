"""What the disk promises: exclusive creation, replacement in one step, compare-and-swap, one writer to a segment."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, UnderstudyError
from understudy.data.storage import LocalStorage

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def at_once(script: str, root: Path, processes: int) -> list[str]:
    """What each of several processes prints that wait for one another before they begin."""
    lines = [
        "import sys, time",
        "from pathlib import Path",
        "from understudy.data.storage import LocalStorage",
        "root, number = Path(sys.argv[1]), int(sys.argv[2])",
        "storage = LocalStorage(root)",
        "print('ready', flush=True); sys.stdin.readline()",
    ]
    code = "\n".join(lines) + "\n" + script
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for number in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes
    return said


def names(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [path for path, _ in storage.list(prefix)]


def test_an_object_is_created_once_and_the_second_writer_is_told(tmp_path):
    storage = LocalStorage(tmp_path)
    assert storage.create("a/b/lock", b"first")
    assert not storage.create("a/b/lock", b"second")
    assert storage.read("a/b/lock") == b"first"


def test_of_eight_processes_that_create_one_object_one_succeeds(tmp_path):
    said = at_once("print([storage.create(f'x/{i}', b'%d' % number) for i in range(50)])", tmp_path, 8)
    wins = [eval(line) for line in said]
    assert [sum(column) for column in zip(*wins, strict=True)] == [1] * 50
    for place in range(50):
        (winner,) = (number for number, won in enumerate(wins) if won[place])
        assert LocalStorage(tmp_path).read(f"x/{place}") == b"%d" % winner


def test_a_part_of_an_object_can_be_read_and_none_past_its_end(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.replace("x", b"0123456789")
    assert storage.read("x", 3, 4) == b"3456"
    assert storage.read("x", 8) == b"89"
    assert storage.read("x", 20, 4) == b""
    with pytest.raises(FileNotFoundError):
        storage.read("y")


def test_a_reader_never_sees_half_of_a_replaced_object(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.replace("x", b"0" * 300_000)
    code = (
        "for turn in range(60):\n"
        "    if number == 0: storage.replace('x', b'%d' % (turn % 10) * 300_000)\n"
        "    data = storage.read('x')\n"
        "    assert len(data) == 300_000 and len(set(data)) == 1\n"
    )
    at_once(code, tmp_path, 3)


def test_of_eight_processes_that_count_by_swapping_none_loses_a_step(tmp_path):
    LocalStorage(tmp_path).replace("count", b"0")
    code = (
        "done = 0\n"
        "while done < 25:\n"
        "    old = storage.read('count')\n"
        "    done += storage.swap('count', old, b'%d' % (int(old) + 1))\n"
    )
    at_once(code, tmp_path, 8)
    assert LocalStorage(tmp_path).read("count") == b"200"


def test_a_swap_of_other_bytes_or_of_nothing_changes_nothing(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.replace("x", b"theirs")
    assert not storage.swap("x", b"mine", b"new")
    assert not storage.swap("y", b"", b"new")
    assert not storage.swap("no/such/folder/y", b"", b"new")
    assert storage.read("x") == b"theirs"
    assert names(storage) == ["x"]


def test_an_object_is_dropped_only_by_who_knows_what_it_holds(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.replace("x", b"theirs")
    assert not storage.drop("x", b"mine")
    assert storage.read("x") == b"theirs"
    assert storage.drop("x", b"theirs")
    assert not storage.drop("x", b"theirs")
    assert not (tmp_path / "x").exists()


def test_of_eight_processes_that_drop_what_they_saw_one_does(tmp_path):
    storage = LocalStorage(tmp_path)
    for place in range(30):
        storage.replace(f"x/{place}", b"seen")
    said = at_once("print([storage.drop(f'x/{i}', b'seen') for i in range(30)])", tmp_path, 8)
    assert [sum(column) for column in zip(*map(eval, said), strict=True)] == [1] * 30


def test_a_listing_has_sizes_in_order_of_path_and_nothing_that_is_half_written(tmp_path):
    storage = LocalStorage(tmp_path)
    for path in ("s/b", "s/a/z", "s/c", "t/a"):
        storage.replace(path, path.encode())
    storage.swap("s/b", b"s/b", b"longer")  # leaves a guard behind
    (tmp_path / "s" / ".4f3a").write_bytes(b"half")
    (tmp_path / "s" / ".trash").mkdir()
    (tmp_path / "s" / ".trash" / "part").write_bytes(b"on its way out")
    assert list(storage.list("s")) == [("s/a/z", 5), ("s/b", 6), ("s/c", 3)]
    assert list(storage.list("nowhere")) == []


def test_a_root_below_a_hidden_folder_is_listed(tmp_path):
    storage = LocalStorage(tmp_path / ".cache" / "root")
    storage.replace("s/a", b"x")
    assert names(storage, "s") == ["s/a"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(UnderstudyError) as caught:
        storage.replace("x", b"data")
    assert str(caught.value) == (
        f"{tmp_path}/x: cannot be written: Is a directory; free some space, or check its permissions, and run again"
    )
    assert not storage.create("x", b"data")
    assert os.listdir(tmp_path) == ["x"]


def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "file").write_text("in the way")
    for write in (
        lambda: storage.create("file/x", b""),
        lambda: storage.replace("file/x", b""),
        lambda: storage.put_file(tmp_path / "file", "file/x"),
    ):
        with pytest.raises(UnderstudyError) as caught:
            write()
        assert str(caught.value).startswith(f"{tmp_path}/file/x: cannot be written: Not a directory; ")


def test_a_root_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(BadInput) as caught:
            LocalStorage(root)
        assert str(caught.value) == f"{root}: cannot be written: Not a directory; choose another with --root"


def test_opening_a_root_leaves_nothing_in_it(tmp_path):
    LocalStorage(tmp_path / "new" / "root")
    assert os.listdir(tmp_path / "new" / "root") == []


def test_a_finished_file_is_moved_into_place(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    finished = tmp_path / "finished"
    finished.write_bytes(b"rows")
    storage.put_file(finished, "stages/x/part")
    assert storage.read("stages/x/part") == b"rows"
    assert not finished.exists()


def test_a_file_whose_content_is_there_already_leaves_it_alone(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.replace("part", b"rows")
    before = (tmp_path / "root" / "part").stat().st_ino
    finished = tmp_path / "finished"
    finished.write_bytes(b"rows")
    storage.put_file(finished, "part")
    assert (tmp_path / "root" / "part").stat().st_ino == before
    assert not finished.exists()
    finished.write_bytes(b"more")
    storage.put_file(finished, "part")
    assert storage.read("part") == b"more"


def test_deleting_takes_an_object_or_a_whole_folder_or_nothing(tmp_path):
    storage = LocalStorage(tmp_path)
    for path in ("a/b/c", "a/d", "e"):
        storage.replace(path, b"")
    storage.delete("a")
    storage.delete("a")
    assert names(storage) == ["e"]
    storage.delete("e")
    assert os.listdir(tmp_path) == []


def test_a_folder_whose_deletion_was_cut_short_is_out_of_sight(tmp_path):
    storage = LocalStorage(tmp_path)
    for number in range(400):
        (tmp_path / "stage" / str(number)).mkdir(parents=True)
        (tmp_path / "stage" / str(number) / "part").write_bytes(b"x")
    storage.replace("stage/manifest.json", b"{}")
    code = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from understudy.data.storage import LocalStorage\n"
        "def left(): return len([*Path(sys.argv[1]).glob('*/[0-9]*'), *Path(sys.argv[1]).glob('.*/[0-9]*')])\n"
        "def stop():\n"
        "    while left() == 400: pass\n"
        "    os.kill(os.getpid(), 9)\n"
        "threading.Thread(target=stop).start()\n"
        "LocalStorage(Path(sys.argv[1])).delete('stage')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=ENVIRONMENT, timeout=60)
    assert ended.returncode == -9
    assert not (tmp_path / "stage").exists()
    assert names(storage) == []


def test_a_segment_tells_where_each_append_starts_and_shows_it_at_once(tmp_path):
    storage = LocalStorage(tmp_path)
    segment = storage.segment("ledger/segments/a")
    starts = [segment.append(data) for data in (b"one\n", b"two!\n", b"three\n")]
    assert starts == [("ledger/segments/a", 0), ("ledger/segments/a", 4), ("ledger/segments/a", 9)]
    assert storage.read("ledger/segments/a") == b"one\ntwo!\nthree\n"
    segment.close()


def test_a_segment_is_never_opened_twice(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.segment("a").close()
    with pytest.raises(FileExistsError):
        storage.segment("a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_segment_that_could_not_be_written_takes_no_more(tmp_path):
    segment = LocalStorage(tmp_path).segment("a")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, segment._file.fileno())
    os.close(full)
    with pytest.raises(OSError, match="No space left"):
        segment.append(b"data")
    with pytest.raises(ValueError, match="closed"):
        segment.append(b"data")


def test_the_tail_of_a_dead_writer_is_set_aside_before_it_is_cut(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.replace("a", b"whole\ntorn")
    assert storage.set_aside("a", 6, 10, "torn/a-6") == 4
    assert storage.read("a") == b"whole\n"
    assert storage.read("torn/a-6") == b"torn"
    assert storage.set_aside("a", 6, 10, "torn/a-6") == 0
    assert storage.read("torn/a-6") == b"torn"


def test_the_segment_of_a_living_writer_is_never_cut(tmp_path):
    storage = LocalStorage(tmp_path)
    segment = storage.segment("a")
    segment.append(b"whole\nhalf")
    assert storage.set_aside("a", 6, 10, "torn/a-6") == 0
    segment.append(b" and whole\n")
    assert storage.read("a") == b"whole\nhalf and whole\n"
    assert not (tmp_path / "torn").exists()
    segment.close()


def test_a_line_that_its_writer_finished_after_we_looked_is_not_cut(tmp_path):
    storage = LocalStorage(tmp_path)
    segment = storage.segment("a")
    segment.append(b"whole\nhalf")
    seen = len(storage.read("a"))
    segment.append(b" and whole\n")
    segment.close()  # its writer is gone now, but every line of it was acknowledged
    assert storage.set_aside("a", 6, seen, "torn/a-6") == 0
    assert storage.read("a") == b"whole\nhalf and whole\n"


def test_a_segment_is_held_by_an_advisory_lock_that_dies_with_its_writer(tmp_path):
    storage = LocalStorage(tmp_path)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom understudy.data.storage import LocalStorage\n"
        "LocalStorage(Path(sys.argv[1])).segment('a').append(b'whole\\ntorn')\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=ENVIRONMENT, timeout=60)
    with open(tmp_path / "a", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert storage.set_aside("a", 6, 10, "torn/a") == 4


def test_a_folder_that_another_process_makes_meanwhile_is_used(tmp_path, monkeypatch):
    folder, is_dir, made = tmp_path / "run", Path.is_dir, []

    def made_right_after_the_look(path: Path) -> bool:
        if path == folder and not made:
            made.append(path.mkdir())
            return False
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", made_right_after_the_look)

    assert LocalStorage(tmp_path).create("run/lock.json", b"mine")
