"""A folder that any file system of fsspec's reaches: a disk, S3 and what speaks like it, Azure, Google.

There is no rename there, and no two files change at once. So each state has a folder of its own, named by its tag, and
its manifest, which lists every file with its digest, is written last: a folder without one is not finished. Then
`latest.json`, above them, comes to name it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import PublishFailed
from .publication import Files, Published, content_of, sha256_of, size_of

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
        folder = f"{base}/{tag}"
        listed = {path: {"bytes": size_of(content), "sha256": sha256_of(content)} for path, content in files.items()}
        manifest = json.dumps({"note": note, "files": listed}, indent=2, sort_keys=True).encode()
        try:
            if system.exists(f"{folder}/{MANIFEST}") and system.cat_file(f"{folder}/{MANIFEST}") == manifest:
                sent: list[str] = []
            else:
                there = system.find(folder, detail=True) if system.exists(folder) else {}
                sizes = {path.rpartition(f"/{tag}/")[2]: facts["size"] for path, facts in there.items()}
                sent = [path for path in files if not _arrived(sizes.get(path), path, listed[path])]
                for path in sent:
                    self._put(system, f"{folder}/{path}", files[path])
                self._put(system, f"{folder}/{MANIFEST}", manifest)
            self._put(system, f"{base}/{LATEST}", json.dumps({"folder": tag}).encode())
        except Exception as error:  # every file system has errors of its own
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise PublishFailed(f"{self.name}: cannot be written: {said}; mend that, and run again") from None
        return Published(f"{self.name.rstrip('/')}/{tag}", tag, len(sent), len(files) - len(sent))

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
            raise PublishFailed(f"{self.name}: {' '.join(str(error).split())[:200]}; check the address") from None
        return system, base.rstrip("/")

    def _put(self, system: Any, path: str, content: bytes | Path) -> None:
        """Whole objects only: a writer that is closed by an error would publish what it had so far."""
        from fsspec.implementations.local import LocalFileSystem

        data = content_of(content)
        if not isinstance(system, LocalFileSystem):
            system.pipe_file(path, data)
            return
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{path}.part", data)
        system.mv(f"{path}.part", path)


def _arrived(size: int | None, path: str, listed: dict[str, Any]) -> bool:
    """Whether the file there is the one to be sent: of the right size, and named by its content."""
    return size == listed["bytes"] and listed["sha256"][:16] in path
