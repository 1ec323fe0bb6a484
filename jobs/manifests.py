"""What Kubernetes needs to run a recipe at its times: a RayCronJob, or a CronJob that creates a RayJob.

A verdict, a bad recipe, a reached budget and too little data are not tried again (codes 4, 2, 3 and 6); all else is,
because a run goes on where it stopped. KubeRay itself can only try everything again or nothing, each time on a new
cluster, so it is told nothing: a RayCronJob's entrypoint tries again in the cluster that is there, and a CronJob's pod
ends with the code of the run (`rayjob`), by which Kubernetes tells.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from io import StringIO
from typing import Any

FINAL = (2, 3, 4, 6)
"""Exit codes that another try would repeat."""

_PLACE = "/understudy"
"""Where an image holds the project: the folder with `jobs/` in it."""

_RAYJOB = "rayjob.yaml"


@dataclass(frozen=True)
class Workload:
    """One recipe on a cluster of its own."""

    recipe: str
    """Its name; Kubernetes' names are made of it."""
    path: str
    """Of the file, relative to the project."""
    root: str
    image: str
    arguments: Sequence[str] = ()
    """More words for `understudy run`."""
    variables: Sequence[str] = ()
    """Names of what the teachers read from the environment, taken from a Secret."""
    workers: int = 1
    gpus: int = 0
    """Of a worker."""

    @property
    def name(self) -> str:
        """At most 30 characters: KubeRay allows 47 for a RayJob, and a CronJob adds the time and an attempt."""
        return re.sub("[^a-z0-9]+", "-", self.recipe.lower()).strip("-")[:30].rstrip("-") or "run"

    @property
    def command(self) -> str:
        words = ["understudy", "run", f"{_PLACE}/{self.path}", "--root", self.root, "--on", "ray", "--address", "auto"]
        return shlex.join([*words, *self.arguments])


def ray_job(load: Workload, *, retries: bool) -> dict[str, Any]:
    """A RayJob that runs once.

    Args:
        retries: try again in its own cluster.
    """
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": load.name},
        "spec": {
            "entrypoint": _trying_again(load.command) if retries else load.command,
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": {
                "rayVersion": _ray_version(),
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},  # asking is done on workers, and training beside the head
                    "template": _pod(load, "ray-head", cpu="2", memory="8Gi"),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": load.workers,
                        "minReplicas": load.workers,
                        "maxReplicas": load.workers,
                        "rayStartParams": {},
                        "template": _pod(load, "ray-worker", cpu="2", memory="8Gi", gpus=load.gpus),
                    }
                ],
            },
        },
    }


def ray_cron_job(load: Workload, cron: str, zone: str) -> list[dict[str, Any]]:
    """A RayCronJob, KubeRay's own schedule."""
    spec = {"schedule": cron, "timeZone": zone, "jobTemplate": ray_job(load, retries=True)["spec"]}
    return [{"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": load.name}, "spec": spec}]


def cron_job(load: Workload, cron: str, zone: str) -> list[dict[str, Any]]:
    """A CronJob whose pod creates a RayJob and waits for it, and all that it needs for that."""
    named = {"name": load.name}
    ours = [{"kind": "ServiceAccount", **named}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", **named}
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}]
    rbac, file = "rbac.authorization.k8s.io/v1", to_yaml([ray_job(load, retries=False)])
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": rbac, "kind": "Role", "metadata": named, "rules": rules},
        {"apiVersion": rbac, "kind": "RoleBinding", "metadata": named, "subjects": ours, "roleRef": role},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {_RAYJOB: file}},
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": named,
            "spec": {
                "schedule": cron,
                "timeZone": zone,
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": 3600,
                "successfulJobsHistoryLimit": 3,
                "failedJobsHistoryLimit": 3,
                "jobTemplate": {"spec": _job(load)},
            },
        },
    ]


def to_yaml(documents: Sequence[dict[str, Any]]) -> str:
    """Documents of one file, keys in the order in which they are given."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import walk_tree

    writer, text = YAML(), StringIO()
    writer.width = 4096
    for document in documents:
        walk_tree(document)  # text of several lines as such
    writer.dump_all(documents, text)
    return text.getvalue()


def _job(load: Workload) -> dict[str, Any]:
    """The Job of one time: its pod ends with the code of the run."""
    fields = {
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
    }
    container = {
        "name": "submit",
        "image": load.image,
        "command": ["python", "-m", "understudy.jobs.rayjob", f"/etc/understudy/{_RAYJOB}"],
        "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "rayjob", "mountPath": "/etc/understudy"}],
    }
    return {
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "submit", "operator": "In", "values": list(FINAL)},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "spec": {
                "serviceAccountName": load.name,
                "restartPolicy": "Never",
                "containers": [container],
                "volumes": [{"name": "rayjob", "configMap": {"name": load.name}}],
            }
        },
    }


def _pod(load: Workload, name: str, *, cpu: str, memory: str, gpus: int = 0) -> dict[str, Any]:
    limits = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container: dict[str, Any] = {
        "name": name,
        "image": load.image,
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": limits},
    }
    if load.variables:
        secret = f"{load.name}-env"
        container["env"] = [
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}
            for variable in load.variables
        ]
    return {"spec": {"containers": [container]}}


def _trying_again(command: str) -> str:
    """A shell's loop in one word, because KubeRay hands an entrypoint through another shell first."""
    final = "|".join(map(str, FINAL))
    loop = f"{command} && exit; code=$?; case $code in {final}) break;; esac; sleep $pause"
    return f"sh -c {shlex.quote(f'for pause in 60 600 0; do {loop}; done; exit $code')}"


def _ray_version() -> str:
    """The one that the extra `ray` pins, which a cluster's image has to have."""
    found = [re.search(r"^ray\[[\w,]+\]==([\d.]+)", line) for line in requires("understudy") or ()]
    return next(match[1] for match in found if match)
