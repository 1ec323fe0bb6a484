"""A folder that any file system of fsspec's reaches: a disk, S3 and what speaks like it, Azure, Google.

There is no rename there, and no two files change at once. So each state has a folder of its own, named by its tag and
by its content, which nobody changes: whoever publishes the same writes the same bytes. Its manifest, which lists every
file with its digest, is written last: a folder without one is not finished. Then `latest.json`, above them, comes to
name it. Files that the state before has too are copied where they lie and not sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .errors import PublishFailed, in_a_line
from .publication import Files, Published, sha256_of, size_of

MANIFEST = "manifest.json"
LATEST = "latest.json"


class Bucket:
    """A place under a URL such as `s3://bucket/prefix` or `file:///data/published`.

    Args:
        name: the URL; keys and endpoints come from the environment, as its file system reads them.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def publish(self, files: Files, tag: str, note: str) -> Published:
        """See `Place`. A file that an interrupted publication has sent is not sent again."""
        system, base = self._opened()
        listed = {path: {"bytes": size_of(content), "sha256": sha256_of(content)} for path, content in files.items()}
        manifest = json.dumps({"note": note, "files": listed}, indent=2, sort_keys=True).encode()
        state = f"{tag}-{sha256_of(manifest)[:8]}"
        try:
            sent = 0
            if not _holds(system, f"{base}/{state}/{MANIFEST}", manifest):
                sent = _fill(system, base, state, files, listed)
                _put(system, manifest, f"{base}/{state}/{MANIFEST}")
            latest = json.dumps({"folder": state}).encode()
            if not _holds(system, f"{base}/{LATEST}", latest):
                _put(system, latest, f"{base}/{LATEST}")
        except Exception as error:  # every file system has errors of its own
            raise PublishFailed(
                f"{self.name}: cannot be written: {in_a_line(error)}; mend that, and run again"
            ) from None
        return Published(f"{self.name.rstrip('/')}/{state}", state, sent, len(files) - sent)

    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path on it.

        Raises:
            PublishFailed: it cannot be reached, or a package for it is missing.
        """
        import fsspec

        try:
            system, base = fsspec.core.url_to_fs(self.name, use_listings_cache=False)
        except ImportError as error:
            raise PublishFailed(
                f"{self.name}: {error}; for s3:// `pip install 'understudy[s3]'`, else the package of that file system"
            ) from None
        except (ValueError, OSError) as error:
            raise PublishFailed(f"{self.name}: {in_a_line(error)}; check the address") from None
        return system, base.rstrip("/")


def _fill(system: Any, base: str, state: str, files: Files, listed: Mapping[str, Any]) -> int:
    """Bring the files into the folder of a state that is not finished; returns how many were sent."""
    folder, sent = f"{base}/{state}", 0
    there, (before, known) = _sizes(system, folder), _latest(system, base)
    for path, content in files.items():
        if there.get(path) == listed[path]["bytes"]:
            continue
        if known.get(path) == listed[path]:
            _placed(system, f"{folder}/{path}", partial(system.cp_file, f"{base}/{before}/{path}"))
        else:
            _put(system, content, f"{folder}/{path}")
            sent += 1
    there = _sizes(system, folder)
    if lost := [path for path in files if there.get(path) != listed[path]["bytes"]]:
        raise OSError(f"{lost[0]} is not there as it was sent")
    return sent


def _sizes(system: Any, folder: str) -> dict[str, int]:
    """Bytes of every file there, by its path in the folder."""
    found = system.find(folder, detail=True) if system.exists(folder) else {}
    name = folder.rpartition("/")[2]
    return {path.rpartition(f"/{name}/")[2]: facts["size"] for path, facts in found.items()}


def _latest(system: Any, base: str) -> tuple[str, dict[str, Any]]:
    """The folder of the state before, and what it lists and still has; nothing where there is none."""
    try:
        folder = json.loads(system.cat_file(f"{base}/{LATEST}"))["folder"]
        listed = json.loads(system.cat_file(f"{base}/{folder}/{MANIFEST}"))["files"]
    except FileNotFoundError:
        return "", {}
    there = _sizes(system, f"{base}/{folder}")
    return folder, {path: facts for path, facts in listed.items() if there.get(path) == facts["bytes"]}


def _holds(system: Any, path: str, content: bytes) -> bool:
    try:
        return bool(system.cat_file(path) == content)
    except FileNotFoundError:
        return False


def _put(system: Any, content: bytes | Path, path: str) -> None:
    """Whole objects only: a writer that is closed by an error would publish what it had so far."""
    if isinstance(content, Path):
        _placed(system, path, partial(system.put_file, str(content)))
    else:
        _placed(system, path, lambda to: system.pipe_file(to, content))


def _placed(system: Any, path: str, write: Callable[[str], None]) -> None:
    """Write a file so that it appears whole: a store does that by itself, a disk by a second name."""
    from fsspec.implementations.local import LocalFileSystem

    if not isinstance(system, LocalFileSystem):
        write(path)
        return
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    write(f"{path}.part")
    system.mv(f"{path}.part", path)
