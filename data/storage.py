"""Where bytes live: one small interface, so that a root can move from a disk to an object store.

Only what both can do is in it: whole objects created, replaced or compared-and-swapped, and append-only segments with
one writer. `LocalStorage` makes each durable (data and every new directory entry synced) before it returns. Names that
begin with a dot are its own: half-written files and guards, which no listing shows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .errors import BadInput, UnderstudyError

_HIDDEN = re.compile(r"\.[0-9a-f]{16}(-|$)")
"""What is half-written or half-removed; SQLite puts files beside its own that are called alike."""


@dataclass(frozen=True)
class Group:
    """How records that are appended at nearly the same time are committed together."""

    seconds: float
    """How long the first of a group waits for others."""
    records: int | None = None
    """A group of so many waits no longer."""
    waits: bool = True
    """Whoever appends waits until his record is durable; else a kill may lose one group."""


class Segment(Protocol):
    """An append-only object with one writer."""

    def append(self, data: bytes) -> tuple[str, int]:
        """Add bytes at the end; returns the path and the offset they start at. Durable when it returns.

        Raises:
            OSError: how much was written is not known, so that this segment takes no more; open another.
        """
        ...

    def close(self) -> None: ...


class Storage(Protocol):
    """Objects by path; a path uses `/` and never starts with one.

    Raises:
        UnderstudyError: an object cannot be written, in one line.
    """

    @property
    def group(self) -> Group:
        """What suits its segments."""
        ...

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object, or the part asked for; FileNotFoundError where there is none."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Paths below a folder with their sizes in bytes, in order of path."""
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Paths of the folders in a folder, in order; of this machine's too, where it keeps copies."""
        ...

    def measure(self, path: str) -> tuple[int, float]:
        """Bytes of an object or of all below a folder, and when it was last written to, in seconds since 1970."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object; False, and nothing written, where the path is taken."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write an object in one step: a reader sees the old bytes or the new, never a mixture."""
        ...

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """Replace the object only if it still holds ``old``; False where it does not."""
        ...

    def drop(self, path: str, old: bytes) -> bool:
        """Remove the object only if it still holds ``old``; False where it does not."""
        ...

    def put_file(self, local: Path, path: str) -> None:
        """Move a finished local file to a path; the same content already there is left alone."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object, or a whole folder in one step; nothing happens where there is none."""
        ...

    def segment(self, path: str) -> Segment:
        """Open a new append-only segment."""
        ...

    def set_aside(self, path: str, length: int, size: int, aside: str) -> int:
        """Cut a dead writer's segment from ``size`` to ``length`` bytes and keep the rest under ``aside``.

        Returns how many bytes were moved: 0 where the writer is alive and may still finish its line, or was when the
        segment was ``size`` bytes long and has finished it since.
        """
        ...

    def idle(self, path: str) -> bool:
        """Whether the writer of a segment is dead, or has closed it."""
        ...

    def leftovers(self) -> Iterator[str]:
        """Files and folders that a kill left half-written or half-removed, or that somebody is at right now."""
        ...

    def local(self, path: str) -> Path:
        """A local folder or file for ``path``, for libraries that write to disk themselves."""
        ...

    def fetch(self, path: str) -> Path:
        """The same, with everything in it that the storage has."""
        ...

    def keep(self, path: str) -> None:
        """Put in the storage what was written below ``local(path)``, but for names that begin with a dot."""
        ...

    def place(self, path: str) -> str:
        """Where a person finds it."""
        ...


def open_storage(root: str | Path) -> Storage:
    """The storage of a root: a folder, or the URL of a bucket with a prefix.

    Raises:
        BadInput: it cannot be used.
    """
    if "://" not in str(root):
        return LocalStorage(Path(root).expanduser().resolve())
    from .object_storage import ObjectStorage

    return ObjectStorage(str(root))


def holds(storage: Storage, path: str, data: bytes | None = None) -> bool:
    """Whether there is such an object, with these bytes where any are given."""
    try:
        found = storage.read(path)
    except FileNotFoundError:
        return False
    return data is None or found == data


class LocalStorage:
    """A folder on a POSIX file system."""

    group = Group(seconds=0.004)
    """The first record of a group waits: its place in the window waits with it, and a group of its own for every record
    would double the CPU time of a request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            _make_folder(root)
            tempfile.TemporaryFile(dir=root).close()
        except OSError as error:
            raise BadInput(f"{root}: cannot be written: {error.strerror}; choose another with --root") from None

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        with open(self.root / path, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = self.root / prefix
        for path in sorted(folder.rglob("*")):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed while we were looking
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def folders(self, prefix: str) -> Sequence[str]:
        inside = (self.root / prefix).glob("*")
        return sorted(
            path.relative_to(self.root).as_posix() for path in inside if path.is_dir() and path.name[0] != "."
        )

    def measure(self, path: str) -> tuple[int, float]:
        return measured(self.root / path)

    def create(self, path: str, data: bytes) -> bool:
        with _told(self.root / path):
            target = self._target(path)
            with _temporary(target, data) as temporary:
                try:
                    os.link(temporary, target)  # fails where the name is taken, unlike a rename
                except FileExistsError:
                    return False
            _sync_folder(target.parent)
            return True

    def replace(self, path: str, data: bytes) -> None:
        with _told(self.root / path):
            target = self._target(path)
            with _temporary(target, data) as temporary:
                os.replace(temporary, target)
            _sync_folder(target.parent)

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        with self._if_it_holds(path, old) as holds:
            if holds:
                self.replace(path, new)
            return holds

    def drop(self, path: str, old: bytes) -> bool:
        with self._if_it_holds(path, old) as holds:
            if holds:
                self.delete(path)
            return holds

    def put_file(self, local: Path, path: str) -> None:
        with _told(self.root / path):
            target = self._target(path)
            if target.is_file() and filecmp.cmp(local, target, shallow=False):
                local.unlink()
                return
            with open(local, "rb") as file:
                os.fsync(file.fileno())
            os.replace(local, target)
            _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        target = self.root / path
        with _told(target):
            if not target.is_dir():
                target.unlink(missing_ok=True)
                return
            gone = _hidden(target)  # first out of sight: a kill half-way must not leave a folder that looks finished
            target.rename(gone)
            shutil.rmtree(gone)

    def segment(self, path: str) -> Segment:
        return _LocalSegment(self._target(path), path)

    def set_aside(self, path: str, length: int, size: int, aside: str) -> int:
        with open(self.root / path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            file.seek(length)
            torn = file.read()
            if not torn or length + len(torn) != size:
                return 0
            self.replace(aside, torn)
            file.truncate(length)
            os.fsync(file.fileno())
            return len(torn)

    def idle(self, path: str) -> bool:
        with open(self.root / path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def leftovers(self) -> Iterator[str]:
        for path in sorted(self.root.rglob(".*")):
            *above, name = path.relative_to(self.root).parts
            if _HIDDEN.match(name) and not any(map(_HIDDEN.match, above)):
                yield path.relative_to(self.root).as_posix()

    def local(self, path: str) -> Path:
        return self.root / path

    def fetch(self, path: str) -> Path:
        return self.root / path

    def keep(self, path: str) -> None:
        """Nothing: it was written where it belongs."""

    def place(self, path: str) -> str:
        return str(self.root / path)

    def _target(self, path: str) -> Path:
        target = self.root / path
        _make_folder(target.parent)
        return target

    @contextlib.contextmanager
    def _if_it_holds(self, path: str, old: bytes) -> Iterator[bool]:
        """Whether the object holds ``old``, which no other swap or drop changes until the end of the block."""
        target = self.root / path
        if not target.is_file():
            yield False
            return
        with _told(target), open(target.with_name(f".{target.name}.guard"), "ab") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            try:
                holds = target.read_bytes() == old
            except FileNotFoundError:
                holds = False
            yield holds


class _LocalSegment:
    """A file opened for appending and held with an advisory lock, which dies with its process."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = name
        self._file: IO[bytes] = open(path, "xb", buffering=0)  # noqa: SIM115  closed by close()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _sync_folder(path.parent)
        self._size = 0

    def append(self, data: bytes) -> tuple[str, int]:
        offset = self._size
        try:
            _write_all(self._file, data)
        except OSError:
            self._file.close()
            raise
        self._size += len(data)
        return self._path, offset

    def close(self) -> None:
        self._file.close()


def measured(place: Path) -> tuple[int, float]:
    """Bytes of a file or of all below a folder, and when it was last written to, in seconds since 1970."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    newest = max((stat.st_mtime for stat in stats), default=place.stat().st_mtime)
    return sum(stat.st_size for stat in stats), newest


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """An error of the disk, as one line."""
    try:
        yield
    except OSError as error:
        raise UnderstudyError(
            f"{target}: cannot be written: {error.strerror}; free some space, or check its permissions, and run again"
        ) from None


@contextlib.contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file beside ``target``, gone at the end of the block whatever happened."""
    temporary = _hidden(target)
    try:
        with open(temporary, "wb") as file:
            _write_all(file, data)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{os.urandom(8).hex()}")


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:  # an unbuffered write may take only a part
        view = view[file.write(view) :]
    file.flush()
    os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder whose name, and those of the folders above it that were missing, survive a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)  # another process may have made it since we looked
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
