"""A root in an object store, S3, Google's or Azure's, behind the same interface as a disk.

Many machines may share it and nothing else. Each keeps a folder of its own beside it, where libraries write and read
files themselves: a cache, which may be lost at any time; what a stage left in it is sent before its manifest. Nothing
is renamed in an object store, and nothing appended to: a segment is a folder of parts, an object for every append, each
there as a whole or not at all. boto3 and s3fs were weighed: obstore has conditional writes for three stores, and no
version that must fit those of other packages.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BadInput, UnderstudyError, in_a_line
from .storage import Group, measured

_CACHE = "UNDERSTUDY_CACHE"

_LAST = "manifest.json"
"""Says that a folder is finished: it is put when all else is there, and never from an old copy."""


class ObjectStorage:
    """A bucket, or a prefix in one, by its URL.

    Raises:
        BadInput: there is no such bucket, or it may not be read.
    """

    group = Group(seconds=1.0, records=256, waits=False)

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url.rstrip("/")
        whose = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        folder = os.environ.get(_CACHE) or Path("~/.cache/understudy").expanduser()
        self.cache = cache or Path(folder) / whose
        self.cache.mkdir(parents=True, exist_ok=True)
        self._store = _opened(self.url)
        with self._told():
            next(iter(self._objects("", most=1)), None)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """A part is read from this machine's copy, which is fetched as a whole: what has parts to read has many."""
        import obstore

        if length is None and not offset:
            with self._told():
                return bytes(obstore.get(self._store, path).bytes())
        copy = self.cache / path
        if not copy.is_file():
            self._fetch(path)
        with open(copy, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._told():
            found = sorted(self._objects(prefix), key=lambda one: str(one["path"]))
        for one in found:
            if not any(part.startswith(".") for part in one["path"].split("/")):
                self._drop_stale_copy(one)
                yield one["path"], one["size"]

    def folders(self, prefix: str) -> Sequence[str]:
        import obstore

        with self._told():
            there = obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"]
        mine = [path for path in (self.cache / prefix).glob("*") if path.is_dir() and not path.name.startswith(".")]
        return sorted({*there, *(path.relative_to(self.cache).as_posix() for path in mine)})

    def measure(self, path: str) -> tuple[int, float]:
        there = self._at(path)
        if not there:
            return measured(self.cache / path)
        return sum(one["size"] for one in there), max(one["last_modified"].timestamp() for one in there)

    def create(self, path: str, data: bytes) -> bool:
        import obstore

        with self._told():
            try:
                obstore.put(self._store, path, data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return self._says(path, data)  # ours, where the answer to the first try was lost
        return True

    def replace(self, path: str, data: bytes) -> None:
        import obstore

        with self._told():
            obstore.put(self._store, path, data)

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        import obstore

        with self._told():
            try:
                found = obstore.get(self._store, path)
                if bytes(found.bytes()) != old:
                    return False
                obstore.put(self._store, path, new, mode={"e_tag": found.meta["e_tag"] or ""})
            except FileNotFoundError:
                return False
            except obstore.exceptions.PreconditionError:
                return self._says(path, new)
        return True

    def drop(self, path: str, old: bytes) -> bool:
        """Leaves an empty object: stores delete without conditions, and what was put meanwhile must stay."""
        return self.swap(path, old, b"")

    def put_file(self, local: Path, path: str) -> None:
        copy = self.cache / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not self._holds(path, local):
            self._send(local, path)
        os.replace(local, copy)
        self._stamp(path)

    def delete(self, path: str) -> None:
        """The manifest goes first: a kill half-way must not leave a folder that looks finished."""
        import obstore

        there = sorted((one["path"] for one in self._at(path)), key=lambda name: not name.endswith(_LAST))
        with self._told():
            for name in there:
                obstore.delete(self._store, name)
        copy = self.cache / path
        if copy.is_dir():
            shutil.rmtree(copy)
        else:
            copy.unlink(missing_ok=True)

    def segment(self, path: str) -> _Parts:
        return _Parts(self, path)

    def set_aside(self, path: str, length: int, size: int, aside: str) -> int:
        """Nothing: a part is there as a whole or not at all."""
        return 0

    def idle(self, path: str) -> bool:
        """Always: nobody adds to a part."""
        return True

    def leftovers(self) -> Iterator[str]:
        return iter(())

    def local(self, path: str) -> Path:
        return self.cache / path

    def fetch(self, path: str) -> Path:
        for one in self._at(path):
            self._drop_stale_copy(one)
            if not (self.cache / one["path"]).is_file():
                self._fetch(one["path"])
        return self.cache / path

    def keep(self, path: str) -> None:
        folder = self.cache / path
        with self._told():
            there = {one["path"]: one for one in self._objects(path)}
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = file.relative_to(self.cache).as_posix()
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if not hidden and file.name != _LAST:
                known = there.get(name)
                if known is None or not _same(file, known):
                    self._send(file, name)
                    self._stamp(name)

    def place(self, path: str) -> str:
        return f"{self.url}/{path}".rstrip("/")

    def _at(self, path: str) -> Sequence[Mapping[str, Any]]:
        """The object of that name, and all below a folder of it."""
        with self._told():
            return [*self._objects(path), *self._object(path)]

    def _objects(self, prefix: str, most: int | None = None) -> Iterator[Mapping[str, Any]]:
        """What the store says of every object below a folder."""
        import obstore

        below = f"{prefix.strip('/')}/" if prefix.strip("/") else None
        for some in obstore.list(self._store, below, chunk_size=most or 1000):
            yield from some
            if most:
                return

    def _object(self, path: str) -> Sequence[Mapping[str, Any]]:
        import obstore

        if not path:
            return []
        try:
            return [obstore.head(self._store, path)]
        except FileNotFoundError:
            return []

    def _says(self, path: str, data: bytes) -> bool:
        try:
            return self.read(path) == data
        except FileNotFoundError:
            return False

    def _holds(self, path: str, local: Path) -> bool:
        """Whether the object has the content of a file already."""
        there = self._object(path)
        if not there or there[0]["size"] != local.stat().st_size:
            return False
        return filecmp.cmp(local, self.fetch(path), shallow=False)

    def _send(self, local: Path, path: str) -> None:
        import obstore

        with self._told():
            obstore.put(self._store, path, local)

    def _fetch(self, path: str) -> None:
        import obstore

        copy = self.cache / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f".{os.urandom(8).hex()}")
        try:
            with self._told():
                got = obstore.get(self._store, path)
                with open(part, "wb") as file:
                    file.writelines(got.stream())
            os.replace(part, copy)
            _mark(copy, got.meta)
        finally:
            part.unlink(missing_ok=True)

    def _stamp(self, path: str) -> None:
        """Note beside this machine's copy which object it is the same as."""
        with self._told():
            for one in self._object(path):
                _mark(self.cache / path, one)

    def _drop_stale_copy(self, one: Mapping[str, Any]) -> None:
        copy = self.cache / one["path"]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if copy.is_file() and not _same(copy, one):
                copy.unlink()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the store, as one line."""
        import obstore

        refusals = (obstore.exceptions.UnauthenticatedError, obstore.exceptions.PermissionDeniedError)
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise
            raise self._no_bucket() from None
        except refusals:
            raise BadInput(
                f"{self.url}: the store refuses these credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "what the store wants in their place"
            ) from None
        except obstore.exceptions.BaseError as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from None
            said = in_a_line(error).partition(" Debug source")[0]
            raise UnderstudyError(f"{self.url}: the store does not do what it should: {said}; run again") from None

    def _no_bucket(self) -> BadInput:
        return BadInput(f"{self.url}: there is no such bucket; create it, or correct --root")


class _Parts:
    """A segment in an object store: a part for each append, numbered."""

    def __init__(self, storage: ObjectStorage, path: str) -> None:
        self._storage = storage
        self._path = path.removesuffix(".jsonl")
        self._parts = 0

    def append(self, data: bytes) -> tuple[str, int]:
        part = f"{self._path}/{self._parts:08d}.jsonl"
        self._storage.replace(part, data)
        self._parts += 1
        return part, 0

    def close(self) -> None:
        """Nothing is open."""


def _opened(url: str) -> Any:
    try:
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise BadInput(f"{url}: obstore is not installed; run `pip install 'understudy[bucket]'`") from None
    from obstore.exceptions import BaseError

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return from_url(url, client_options={"allow_http": True} if plain else None)
    except (BaseError, ValueError) as error:
        raise BadInput(
            f"{url}: is no root: {in_a_line(error, 120)}; expected a folder, or s3://bucket/prefix"
        ) from None


def _same(copy: Path, one: Mapping[str, Any]) -> bool:
    """Whether a copy is of what the store has now, and as it was when that was noted."""
    try:
        return _note(copy).read_text() == _noted(copy, one)
    except FileNotFoundError:
        return False


def _mark(copy: Path, one: Mapping[str, Any]) -> None:
    _note(copy).write_text(_noted(copy, one))


def _note(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.of")


def _noted(copy: Path, one: Mapping[str, Any]) -> str:
    stat = copy.stat()
    return f"{one['e_tag']} {stat.st_size} {stat.st_mtime_ns}"
