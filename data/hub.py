"""A repository on a hub: one commit that adds what is new and removes what is gone, and a tag on it.

`upload_folder` and `push_to_hub` were weighed and left out: they make several commits of many files, so that a reader
can see half a dataset, and neither survives a commit by somebody else. One `create_commit` on a known parent does, but
the client never repeats it: that is done here.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .errors import PublishFailed, in_a_line
from .publication import Files, Published, content_of, sha256_of, size_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

_TRIES = 6
_PASSING = (408, 409, 412, 429, 500, 502, 503, 504)
"""What may be otherwise in a moment; 412 is a commit by somebody else between our look and ours."""

_LONGEST_PAUSE = 30.0

Result = TypeVar("Result")


class HubRepository:
    """A dataset or a model on a hub, under the token that HF_TOKEN or a login gives.

    Args:
        name: `org/name`.
        private: who may read a repository that is made for it; one that everybody can read is not taken for a private
            one.
        ours: how paths begin that hold nothing but what we publish; a file of them that is published no more is
            removed, and whatever else somebody keeps in the repository stays.
        endpoint: the hub; by default what HF_ENDPOINT names.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["dataset", "model"],
        *,
        private: bool,
        ours: Iterable[str] = (),
        endpoint: str | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._kind: str = kind
        self._private = private
        self._ours = tuple(ours)
        self._endpoint = endpoint
        self._pause = pause

    def publish(self, files: Files, tag: str, note: str) -> Published:
        """See `Place`. The repository is made where there is none."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        api = HfApi(self._endpoint, library_name="understudy")
        self._patiently(lambda: self._open(api))
        revision, sent = self._patiently(lambda: self._commit(api, files, note))
        there = self._patiently(lambda: self._files(api, revision))
        if wrong := sorted(path for path, content in files.items() if not _same(there.get(path), content)):
            raise PublishFailed(f"{self.name}: {wrong[0]} is not there as it was sent, at commit {revision}; run again")
        self._patiently(lambda: self._tag(api, tag, revision))
        folder = "datasets/" if self._kind == "dataset" else ""
        return Published(f"{api.endpoint}/{folder}{self.name}/tree/{tag}", revision, sent, len(files) - sent)

    def _open(self, api: HfApi) -> None:
        """Make the repository where there is none.

        Raises:
            PublishFailed: it is to be private, and is there for everybody.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            there = api.repo_info(self.name, repo_type=self._kind)
        except RepositoryNotFoundError:
            api.create_repo(self.name, repo_type=self._kind, private=self._private, exist_ok=True)
            return
        if self._private and not there.private:
            raise PublishFailed(
                f"{self.name}: everybody can read it, and publish.private is true; make it private on the hub, or set "
                "`private: false`"
            )

    def _commit(self, api: HfApi, files: Files, note: str) -> tuple[str, int]:
        """Bring the branch to these files; returns the commit that has them, and how many were sent.

        Where an answer was lost on its way and the commit was made, the next try finds nothing to change.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = str(api.repo_info(self.name, repo_type=self._kind, revision="main").sha)
        there = self._files(api, head)
        new = [path for path, content in files.items() if not _same(there.get(path), content)]
        gone = [path for path in there if path.startswith(self._ours) and path not in files]
        if not new and not gone:
            return head, 0
        operations: list[Any] = [CommitOperationAdd(path, _given(files[path])) for path in new]
        operations += [CommitOperationDelete(path) for path in gone]
        made = api.create_commit(
            self.name, operations, commit_message=note, repo_type=self._kind, revision="main", parent_commit=head
        )
        return str(made.oid), len(new)

    def _files(self, api: HfApi, revision: str) -> dict[str, RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        tree = api.list_repo_tree(self.name, repo_type=self._kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _tag(self, api: HfApi, tag: str, revision: str) -> None:
        """Put the tag on the commit; one that stands elsewhere names the same rows with an older card."""
        for last in (False, True):
            refs = api.list_repo_refs(self.name, repo_type=self._kind)
            at = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
            if at == revision:
                return
            if last:
                raise PublishFailed(f"{self.name}: the tag {tag} is at {at} and not at commit {revision}; run again")
            if at is not None:
                api.delete_tag(self.name, tag=tag, repo_type=self._kind)
            api.create_tag(self.name, tag=tag, revision=revision, repo_type=self._kind)

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """Try again what may pass; what will not is one line.

        Raises:
            PublishFailed: refused, or still failing at the end.
        """
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HfHubHTTPError,
            HTTPError,
            OfflineModeIsEnabled,
        )

        wait = 1.0
        for number in range(1, _TRIES + 1):
            try:
                return work()
            except OfflineModeIsEnabled:
                raise PublishFailed(f"{self.name}: HF_HUB_OFFLINE is set; unset it, and run again") from None
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status not in _PASSING or number == _TRIES:
                    raise self._refused(status, error) from None
                told = error.response.headers.get("Retry-After", "")
                self._pause(float(told) if told.isdigit() else wait)
            except (HTTPError, ConnectionError, RuntimeError, JSONDecodeError) as error:
                # lost on the way; the same by Xet; a file by LFS; an error page in the place of an answer
                if number == _TRIES:
                    said = f"the hub cannot be reached ({in_a_line(error)})"
                    raise PublishFailed(f"{self.name}: {said}; run again: what arrived is not sent twice") from None
                self._pause(wait)
            except ValueError as error:  # the client, of a card that the hub takes exception to
                raise PublishFailed(
                    f"{self.name}: the hub does not take the card ({in_a_line(error)}); mend the recipe's `publish` "
                    "section, and run again"
                ) from None
            wait = min(2 * wait, _LONGEST_PAUSE)
        raise AssertionError("the last try returns or raises")

    def _refused(self, status: int, error: HfHubHTTPError) -> PublishFailed:
        said = " ".join((error.server_message or "").split())[:160]
        if status in (401, 403):
            found = f"{self.name}: the hub refuses ({status}{said and f', {said}'})"
            return PublishFailed(f"{found}; set HF_TOKEN to a token that may write there, and run again")
        return PublishFailed(f"{self.name}: the hub answers {status} ({said or in_a_line(error)}); run again later")


def _given(content: bytes | Path) -> bytes | str:
    return content if isinstance(content, bytes) else str(content)


def _same(there: RepoFile | None, content: bytes | Path) -> bool:
    """Whether a file of the hub's holds this content: by SHA-256 for a large one, else as git names it."""
    if there is None or there.size != size_of(content):
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == sha256_of(content))
    data = content_of(content)
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
