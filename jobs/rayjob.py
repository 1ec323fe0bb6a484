"""In a pod: create a RayJob, wait for it, and end with the exit code of its run.

The pod is that of a Job, which tells by the code whether to try again. A pod that takes another's place goes on waiting
for the RayJob that its Job has; the RayJob belongs to the Job and is removed with it. Kubernetes' own interface is four
requests here, so its client library was left out.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE = 600.0
"""Seconds for which Kubernetes may not answer."""

_OVER = ("Complete", "Failed")
_CODE = re.compile(r"failed with exit code (\d+)")


class Kubernetes:
    """The RayJobs of this pod's namespace.

    Args:
        account: folder with the pod's token, namespace and certificate.
    """

    def __init__(self, address: str, account: Path = _ACCOUNT) -> None:
        self._account = account
        namespace = (account / "namespace").read_text().strip()
        self._jobs = f"{address}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        authority = account / "ca.crt"
        self._context = ssl.create_default_context(cafile=authority) if authority.is_file() else None

    def of(self, job: str) -> list[dict[str, Any]]:
        """The RayJobs of a Job."""
        items: list[dict[str, Any]] = self._ask("GET", f"?labelSelector=understudy-job={job}")["items"]
        return items

    def create(self, body: dict[str, Any]) -> None:
        """Create a RayJob; nothing happens where there is one of this name."""
        try:
            self._ask("POST", "", body)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise

    def get(self, name: str) -> dict[str, Any]:
        return self._ask("GET", f"/{name}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        token = (self._account / "token").read_text().strip()  # it is renewed in place
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self._jobs + path, data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=30, context=self._context) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer


def run(kubernetes: Kubernetes, template: dict[str, Any], job: str, uid: str, every: float = 10.0) -> int:
    """Have a RayJob made of the template run for a Job, and return the exit code of its run.

    Args:
        every: seconds between two looks.
    """
    made = kubernetes.of(job)
    going = [one["metadata"]["name"] for one in made if not _is_over(one)]
    name = going[0] if going else f"{job}-{len(made) + 1}"
    if not going:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
        metadata = {"name": name, "labels": {"understudy-job": job}, "ownerReferences": [owner]}
        kubernetes.create({**template, "metadata": metadata})
    print(f"RayJob {name}: {'goes on' if going else 'created'}", flush=True)
    answered = time.monotonic()
    while True:
        try:
            found = kubernetes.get(name)
            answered = time.monotonic()
        except OSError:  # HTTPError too
            if time.monotonic() - answered > _PATIENCE:
                raise
            found = {}
        if _is_over(found):
            return _code(name, found["status"])
        time.sleep(every)


def _is_over(ray_job: dict[str, Any]) -> bool:
    return ray_job.get("status", {}).get("jobDeploymentStatus") in _OVER


def _code(name: str, status: dict[str, Any]) -> int:
    """The run's own code, which Ray puts into words; 1 where the run is lost."""
    message = status.get("message", "")
    print(f"RayJob {name}: {status.get('jobStatus', '')} {message}".rstrip(), flush=True)
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    said = _CODE.search(message)
    return int(said[1]) if said else 1


def main(template: Path) -> int:
    from ruamel.yaml import YAML

    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    body = YAML(typ="safe").load(template.read_text(encoding="utf-8"))
    return run(Kubernetes(address), body, os.environ["JOB_NAME"], os.environ["JOB_UID"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
