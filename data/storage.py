"""Where bytes live: one small interface, so that a root can move from a disk to an object store.

Only what both can do is in it: whole objects created, replaced or compared-and-swapped, and append-only segments with
one writer. `LocalStorage` makes each durable (data and directory entry synced) before it returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from .errors import BadInput


class Segment(Protocol):
    """An append-only object with one writer."""

    def append(self, data: bytes) -> int:
        """Add bytes at the end; returns the offset they start at. Durable when it returns."""
        ...

    def close(self) -> None: ...


class Storage(Protocol):
    """Objects by path; a path uses `/` and never starts with one."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object, or the part asked for; FileNotFoundError where there is none."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Paths below a folder with their sizes in bytes, in order of path."""
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

    def put_file(self, local: Path, path: str) -> None:
        """Move a finished local file to a path; the same content already there is left alone."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object or a whole folder; nothing happens where there is none."""
        ...

    def segment(self, path: str) -> Segment:
        """Open a new append-only segment."""
        ...

    def set_aside(self, path: str, length: int, aside: str) -> int:
        """Cut a dead writer's segment to ``length`` bytes and keep the rest under ``aside``.

        Returns how many bytes were moved: 0 where the writer is alive and may still finish its line.
        """
        ...

    def local(self, path: str) -> Path:
        """A local folder or file for ``path``, for libraries that write to disk themselves."""
        ...


class LocalStorage:
    """A folder on a POSIX file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BadInput(
                f"{root}: cannot be written: {error.strerror}; choose another with --root"
            ) from None

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        with open(self.root / path, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for path in sorted((self.root / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # removed while we were looking
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def create(self, path: str, data: bytes) -> bool:
        target = self._target(path)
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_folder(target.parent)
        return True

    def replace(self, path: str, data: bytes) -> None:
        target = self._target(path)
        os.replace(self._write_temporary(target, data), target)
        _sync_folder(target.parent)

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        target = self._target(path)
        with open(target.with_name(f".{target.name}.guard"), "ab") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if not target.exists() or target.read_bytes() != old:
                return False
            self.replace(path, new)
            return True

    def put_file(self, local: Path, path: str) -> None:
        target = self._target(path)
        with open(local, "rb") as file:
            os.fsync(file.fileno())
        os.replace(local, target)
        _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def segment(self, path: str) -> Segment:
        return _LocalSegment(self._target(path))

    def set_aside(self, path: str, length: int, aside: str) -> int:
        with open(self.root / path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            file.seek(length)
            torn = file.read()
            if torn:
                self.replace(aside, torn)
                file.truncate(length)
                os.fsync(file.fileno())
            return len(torn)

    def local(self, path: str) -> Path:
        return self.root / path

    def _target(self, path: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _write_temporary(self, target: Path, data: bytes) -> Path:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        with open(temporary, "wb") as file:
            _write_all(file, data)
        return temporary


class _LocalSegment:
    """A file opened for appending and held with an advisory lock, which dies with its process."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = open(path, "xb", buffering=0)  # noqa: SIM115  closed by close()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _sync_folder(path.parent)
        self._size = 0

    def append(self, data: bytes) -> int:
        offset = self._size
        _write_all(self._file, data)
        self._size += len(data)
        return offset

    def close(self) -> None:
        self._file.close()


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:  # an unbuffered write may take only a part
        view = view[file.write(view) :]
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
