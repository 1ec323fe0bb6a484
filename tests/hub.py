"""A hub on loopback: repositories with commits and tags, as `huggingface_hub` and `datasets` speak to one.

Xet is not spoken: clients are started with HF_HUB_DISABLE_XET=1. Files of the suffixes below go by LFS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".parquet", ".safetensors")
TOKEN = "hf_writes"
READS = "hf_reads"


@dataclass
class Fault:
    """The next requests that match are answered otherwise."""

    method: str
    path: str
    status: int
    """0: the connection is cut. 1: the request is done, and then the connection is cut."""
    times: int = 1
    retry_after: str = ""


@dataclass
class Repository:
    """Commits, the last one last: files by path, each as bytes."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        wanted = self.head if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == wanted), None)

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid


class Hub:
    """State, faults, and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        """By `datasets/org/name` or `models/org/name`."""
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        self.card_errors: list[str] = []
        """What is wrong with every card."""
        self.before_commit: list[Any] = []
        """Called once each, before a commit is made: what somebody else does meanwhile."""
        self.lock = threading.Lock()
        self.url = ""

    def writes(self) -> list[tuple[str, str]]:
        """Requests that change something, looking up what is there apart."""
        return [
            (method, path)
            for method, path in self.asked
            if method in ("PUT", "DELETE") or (method == "POST" and re.search(r"/(commit|tag|create)(/|$)", path))
        ]


@contextmanager
def a_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.asked.append((method, path))
        fault = next((f for f in self.state.faults if f.times and f.method == method and re.search(f.path, path)), None)
        if fault:
            fault.times -= 1
            if fault.status > 1:
                headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return self._send(fault.status, {"error": "on purpose"}, headers)
            if fault.status == 0:
                return self._cut()
        with self.state.lock:
            status, answer, headers = self._routed(method, path, body)
        if fault:
            return self._cut()
        return self._send(status, answer, headers)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(content)

    def _routed(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        hub, token = self.state, (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path == "/api/agent-harnesses":
            return 200, {"standardEnvVars": [], "harnesses": {}}, {}
        if path == "/api/validate-yaml":
            errors = [{"message": message} for message in hub.card_errors]
            return (400 if errors else 200), {"warnings": [], "errors": errors}, {}
        if match := re.fullmatch(r"/lfs/(\w{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                return 400, {"error": "another content"}, {}
            hub.objects[match[1]] = body
            return 200, {}, {}
        if path == "/api/repos/create":
            return self._created(json.loads(body), token)
        if match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            wanted = json.loads(body)["objects"]
            return 200, {"transfer": "basic", "objects": [self._object(one) for one in wanted]}, {}
        if match := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(.*))?", path):
            repository = hub.repositories.get(f"{match[1]}/{match[2]}")
            if repository is None or (repository.private and token not in (TOKEN, READS)):
                return 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"}
            if method in ("POST", "DELETE") and "paths-info" not in path and token != TOKEN:
                return 403, {"error": "no right to write"}, {}
            return self._on(repository, method, match[2], match[3] or "", body)
        if match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(f"{match[1] or 'models'}/{match[2]}", match[3], match[4])
        return 404, {"error": path}, {}

    def _created(self, wanted: dict[str, Any], token: str) -> tuple[int, Any, dict[str, str]]:
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{kind}/{wanted['organization']}/{wanted['name']}"
        if token != TOKEN:
            return (403 if token else 401), {"error": "no right to write"}, {}
        there = name in self.state.repositories
        if not there:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.state.repositories[name] = Repository(private)
            self.state.repositories[name].commit({".gitattributes": b""})
        return (409 if there else 200), {"url": f"{self.state.url}/{name.removeprefix('models/')}"}, {}

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.state.url}/lfs/{wanted['oid']}"}}
        return {**wanted, **({} if wanted["oid"] in self.state.objects else {"actions": upload})}

    def _on(
        self, repository: Repository, method: str, name: str, rest: str, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        action, _, argument = rest.partition("/")
        if action == "tag":
            return self._tag(repository, method, argument, body)
        if action == "commit":
            return self._commit(repository, name, body)
        if action == "refs":
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repository.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            return 200, {"branches": [main], "tags": tags, "converts": []}, {}
        if action == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"}
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": [{**one, "shouldIgnore": False} for one in files]}, {}
        revision, _, folder = (argument if action in ("tree", "revision") else "main").partition("/")
        found = repository.files(revision)
        if found is None:
            return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
        if action == "tree":
            return 200, _tree(found[1], folder), {}
        return 200, {"id": name, "sha": found[0], "private": repository.private, "siblings": []}, {}

    def _commit(self, repository: Repository, name: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        lines = [json.loads(line) for line in body.splitlines()]
        if self.state.before_commit:
            self.state.before_commit.pop(0)(repository)
        if lines[0]["value"].get("parentCommit") not in (None, repository.head):
            return 412, {"error": "the parent is not the head"}, {}
        files = dict(repository.commits[-1][1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] not in self.state.objects:
                return 400, {"error": f"{value['path']} was never sent"}, {}
            else:
                files[value["path"]] = self.state.objects[value["oid"]]
        oid = repository.commit(files)
        kind = "datasets/" if f"datasets/{name}" in self.state.repositories else ""
        return 200, {"commitOid": oid, "commitUrl": f"{self.state.url}/{kind}{name}/commit/{oid}"}, {}

    def _tag(self, repository: Repository, method: str, argument: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if method == "DELETE":
            del repository.tags[argument]
            return 200, {}, {}
        tag = json.loads(body)["tag"]
        if tag in repository.tags:
            return 409, {"error": "there already"}, {}
        repository.tags[tag] = repository.head if argument == "main" else argument
        return 200, {}, {}

    def _file(self, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repository = self.state.repositories.get(name)
        found = repository.files(revision) if repository else None
        if found is None:
            return 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"}
        if path not in found[1]:
            return 404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]}
        content, start = found[1][path], 0
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            return 206, content[start : end + 1], headers
        if self.command == "HEAD":
            return 200, b"", {**headers, "Content-Length": str(len(content))}
        return 200, content, headers


def _tree(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    folders: set[str] = set()
    for path, content in sorted(files.items()):
        if folder and not path.startswith(f"{folder}/"):
            continue
        parents = path.split("/")[:-1]
        folders |= {"/".join(parents[: end + 1]) for end in range(len(parents))}
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        entries.append(entry)
    return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)] + entries
