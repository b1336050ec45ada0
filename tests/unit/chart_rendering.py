"""What the real helm makes of the chart, for tests that look at it. No cluster is needed."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.requirements import ROOT

CHART = ROOT / "charts" / "replay"
HELM = str(Path(sys.executable).parent / "helm")

Document = dict[str, Any]

LEAST: Mapping[str, Any] = {
    "service": {"image": {"name": "registry.example.org/replay-service", "tag": "1"}},
    "builds": {"image": {"name": "registry.example.org/replay-builder", "tag": f"sha256:{'a' * 64}"}},
    "registry": {"url": "https://registry.example.org/replay"},
}
"""What has no default."""

EVERYTHING: Mapping[str, Any] = {
    "imagePullSecrets": ["pull"],
    "caConfigMap": "site-authorities",
    "hub": {"url": "https://hub.example.org"},
    "vos": {"vo.example.org": "https://enrol.example.org", "students": ""},
    "sessions": {"memory": {"guarantee": "1G", "limit": "3G"}, "cpu": {"guarantee": 0.5, "limit": 2}},
    "repositories": {
        "allowedHosts": ["github.com", "*.example.org"],
        "archiveHosts": ["zenodo.org"],
        "gitlabHosts": ["git.example.org"],
        "exemptOrigins": ["http://10.0.0.1:3000"],
        "dataverseInstallations": {"configMap": "installations", "key": "list.json"},
        "sourceTokens": {"secret": "archives"},
    },
    "registry": {"url": "https://registry.example.org/replay", "secret": "pull-account", "pushSecret": "push"},
    "service": {
        "image": {"name": "registry.example.org/replay-service", "tag": "1", "pullPolicy": "Always"},
        "annotations": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "research"},
        "nodeSelector": {"pool": "core"},
        "tolerations": [{"key": "core", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
        "serviceAccount": {"annotations": {"a": "b"}},
        "persistence": {"storageClassName": "fast", "annotations": {"a": "b"}, "keep": True},
        "extraEnv": {"REPLAY_ORDINARY_SERVERS": "0"},
        "extraConfig": {"20-last": "c.ReplayBuildService.builds_at_once = 9", "10-first.py": "first = True"},
        "extraFiles": {"notice.txt": "one\n\n  two"},
    },
    "builds": {
        "namespace": "replay-builds",
        "allowReleaseNamespace": True,
        "image": {"name": "registry.example.org/replay-builder", "tag": f"sha256:{'a' * 64}"},
        "baseImage": f"debian@sha256:{'b' * 64}",
        "repo2dockerConfig": "c.Repo2Docker.base_image = 'debian'\n",
        "network": "none",
        "nodeSelector": {"pool": "builds"},
        "tolerations": [{"key": "builds", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "low",
        "imagePullSecrets": ["pull"],
    },
    "engine": {
        "config": {"insecure-registries": ["10.0.0.1:5000"], "icc": True},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "research"},
    },
    "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "mine"}}},
    "networkPolicies": {
        "clusterCIDRs": ["203.0.113.0/24", "2001:db8::/32"],
        "registry": {"cidrs": ["10.9.9.9/32"], "ports": [5000]},
        "extraEgress": {
            "service": [{"to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]}],
            "builds": [{"to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]}],
            "sessions": [{"to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]}],
        },
    },
}
"""A value other than the default for as much as there is."""

HOSTS_ENGINE: Mapping[str, Any] = {
    **LEAST,
    "engine": {"enabled": False, "hostData": "/var/lib/docker"},
    "builds": {**LEAST["builds"], "namespace": "jupyter", "allowReleaseNamespace": True, "createNamespace": False},
    "service": {
        **LEAST["service"],
        "serviceAccount": {"create": False, "name": "mine"},
        "persistence": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "upgradeDatabase": False,
        "tokenSecret": "my-token",
    },
    "rbac": {"create": False},
    "networkPolicies": {"enabled": False},
}
"""As little of the chart's own as may be."""

POLICIES: Mapping[str, Any] = {
    **LEAST,
    "policies": {
        "defaults": {"memory": {"guarantee": "2G", "limit": "4G"}, "servers_per_repository": 100},
        "vos": {
            "vo.example.org": {
                "gpus": {"count": 1},
                "maximum_age": "8h",
                "managers": ["vo.example.org:role=manager"],
                "terms": {"version": "1.10", "text": "Be kind.\n\n'Cite' us: always.\n"},
            },
            "students": {},
        },
    },
}

SETS: Mapping[str, Mapping[str, Any]] = {
    "least": LEAST,
    "everything": EVERYTHING,
    "the host's engine": HOSTS_ENGINE,
    "policies": POLICIES,
}


def helm(*arguments: str, values: Mapping[str, Any] = LEAST) -> "subprocess.CompletedProcess[str]":
    """With values on its standard input, where it reads some."""
    command = [HELM, *arguments]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60, cwd=ROOT)


def render(values: Mapping[str, Any] = LEAST, version: str = "1.37.0", *kinds: str) -> list[Document]:
    """The documents of a release “replay” in the namespace “jupyter”, for a Kubernetes of that version.

    ``kinds``: API versions that it knows beside its own, such as ``monitoring.coreos.com/v1``.
    """
    return json.loads(_rendered(json.dumps(values, sort_keys=True), version, kinds))


@cache
def _rendered(values: str, version: str, kinds: tuple[str, ...]) -> str:
    done = helm(
        "template", "replay", str(CHART), "--namespace=jupyter", f"--kube-version={version}", "--values=-",
        *(f"--api-versions={kind}" for kind in kinds),
        values=json.loads(values),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.dumps([document for document in yaml.safe_load_all(done.stdout) if document])


def refusal(values: Mapping[str, Any]) -> str:
    """What helm says of values that it does not take."""
    done = helm("template", "replay", str(CHART), "--values=-", values=values)
    assert done.returncode != 0, done.stdout
    return done.stderr


def one(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Each pod's specification, with the name of what makes it."""
    for document in documents:
        if template := document.get("spec", {}).get("template"):
            yield document["metadata"]["name"], template["spec"]


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def environment(container: Document) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", ())}


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """As helm does it: mappings are merged, all else is replaced."""
    made = dict(base)
    for name, value in more.items():
        before = made.get(name)
        made[name] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return made
