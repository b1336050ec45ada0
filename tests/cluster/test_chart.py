"""The chart on a real cluster, by the real helm: installed, upgraded, rolled back, removed; and what its accounts may do.

The hub is not there: of Zero to JupyterHub there is the Secret alone (`test_chart_whole_way` has one). The engine of the
chart's own is not run, since it needs an image from elsewhere and a privileged container, which this cluster does not allow;
the API server is asked whether it would take the rest of its manifest.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.doctor.cluster import RIGHTS
from tests.cluster.external import AnyCluster
from tests.cluster.release import Release, checksum, health, make_hubs_secret
from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART, EVERYTHING, merged, render

pytestmark = pytest.mark.needs("cluster", "pages")


def test_it_is_installed_upgraded_rolled_back_and_removed(
    release: Release, volume: None, values: dict[str, Any], cluster: AnyCluster
) -> None:
    release.helm("install", "replay", str(CHART), values=values)
    # Without the hub's token it waits, and says for what.
    release.kube.wait_until(
        lambda: any(
            'secret "hub" not found' in one.get("message", "") for one in release.kube.events(release.namespace)
        ),
        "the Secret of the hub is missed",
    )
    make_hubs_secret(release)
    installed = release.ready()
    assert health(installed) == 200
    token = release.kube.get("secrets", release.namespace, "replay")
    assert token is not None

    # What the pod may is what its manifest says.
    name = installed["metadata"]["name"]

    def shell(script: str) -> str:
        return release.kube.run_in(release.namespace, name, "sh", "-c", script, container="service")

    assert shell("id -u; id -g").split() == ["1000", "1000"]
    assert shell("touch /opt/replay/x 2>&1 || echo refused").strip().endswith("refused")
    assert shell("grep CapEff /proc/1/status").split() == ["CapEff:", "0000000000000000"]
    assert shell("stat -Lc %a /etc/replay/secret/hub_token /etc/replay/secret/service_token").split() == ["440", "440"]
    secret = base64.b64decode(token["data"]["service_token"]).decode()
    assert secret not in shell("tr '\\0' '\\n' < /proc/1/environ; cat /etc/replay/jupyterhub_config.py")
    assert shell("cat /etc/replay/secret/service_token") == secret

    found = release.doctor()
    for check in ("rights", "database", "service", "token"):
        assert found[check]["state"] == "ok", found[check]
    assert found["registry"]["state"] == "not known", "it takes pushes from anybody"
    assert found["hub"]["state"] == "failed"  # there is none

    # A change of the configuration is another pod, with the same token and the same database.
    changed = merged(values, {"service": {"extraConfig": {"more": "c.ReplayBuildService.builds_at_once = 3"}}})
    release.helm("upgrade", "replay", str(CHART), values=changed)
    upgraded = release.ready(checksum(installed))
    assert health(upgraded) == 200
    after = release.kube.get("secrets", release.namespace, "replay")
    assert after is not None
    assert after["data"] == token["data"]
    states = [one["state"] for one in upgraded["status"]["initContainerStatuses"]]
    assert [state["terminated"]["exitCode"] for state in states] == [0]
    name = upgraded["metadata"]["name"]
    assert "builds_at_once = 3" in shell("cat /etc/replay/extra/more.py")

    release.helm("rollback", "replay", "1")
    rolled_back = release.ready(checksum(upgraded))
    assert health(rolled_back) == 200
    assert checksum(rolled_back) == checksum(installed)
    assert release.revision == 3

    builds = f"{release.namespace}-builds"
    assert release.kube.has_namespace(builds)
    release.helm("uninstall", "replay", "--wait")
    release.kube.wait_until(lambda: release.left() == ["secret/hub"], "nothing is left but what was there before")
    release.kube.wait_until(lambda: not release.kube.has_namespace(builds), "the namespace of builds is gone")


@pytest.fixture
def everything(release: Release) -> Iterator[tuple[Release, str]]:
    """All that the chart can make but its engine, in two namespaces. No pod of it runs."""
    builds = f"{release.namespace}-builds"
    off = {"engine": {"enabled": False}, "service": {"replicas": 0}, "builds": {"namespace": builds}}
    values = merged(EVERYTHING, off)
    release.helm("install", "replay", str(CHART), values=values)
    yield release, builds
    release.helm("uninstall", "replay", "--wait", "--ignore-not-found")


def allowed(cluster: AnyCluster, account: str, namespace: str) -> set[tuple[str, str]]:
    """All that an account may do there, but for what everybody may: ask what they may do, and read what the API is."""
    told = cluster.kubectl("auth", "can-i", "--list", "--no-headers", f"--as={account}", f"--namespace={namespace}")
    found: set[tuple[str, str]] = set()
    for line in told.splitlines():
        resource, _, verbs = line.partition(" ")
        if not resource or resource.startswith("selfsubject") or "[/" in line:
            continue
        found |= {(resource, verb) for verb in verbs.rpartition("[")[2].strip("] ").split()}
    return found


def test_accounts_may_do_what_they_must_and_nothing_else(everything: tuple[Release, str], cluster: AnyCluster) -> None:
    release, builds = everything
    service = f"system:serviceaccount:{release.namespace}:replay"
    hub = f"system:serviceaccount:{release.namespace}:hub"
    assert allowed(cluster, service, builds) == {(kind, verb) for kind, verbs in RIGHTS.items() for verb in verbs}
    assert allowed(cluster, service, release.namespace) == set()
    assert allowed(cluster, service, "kube-system") == set()
    # The hub's other rights are Zero to JupyterHub's business.
    assert allowed(cluster, hub, release.namespace) == {
        ("pods/log", "get"), ("pods", "patch"), ("secrets", "patch"), ("pods.metrics.k8s.io", "get"),
    }  # fmt: skip
    assert allowed(cluster, hub, builds) == set()
    # Build pods have no account of their own, and no token of any.
    assert allowed(cluster, f"system:serviceaccount:{builds}:default", builds) == set()

    for words in (
        ("get", "secrets"), ("list", "secrets"), ("create", "secrets"), ("get", "nodes"), ("patch", "pods"),
        ("create", "pods", "--subresource=portforward"), ("create", "deployments.apps"), ("create", "pods", "--subresource=eviction"), ("create", "serviceaccounts", "--subresource=token"),
        ("create", "rolebindings"), ("escalate", "roles"), ("get", "configmaps"),
    ):  # fmt: skip
        asked = cluster.kubectl_command("auth", "can-i", *words, f"--as={service}", f"--namespace={builds}")
        assert subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "no", words


def test_all_of_it_is_taken_by_the_api_and_removed_again(everything: tuple[Release, str], cluster: AnyCluster) -> None:
    release, builds = everything
    made = {name for name in release.left() if not name.startswith("secret/sh.helm")}
    assert {
        "configmap/replay", "secret/replay", "service/replay", "deployment/replay", "persistentvolumeclaim/replay",
        "networkpolicy/replay-service", "networkpolicy/replay-sessions", "poddisruptionbudget/replay", "role/replay-hub",
    } <= made  # fmt: skip
    assert release.left(builds) == ["networkpolicy/replay-build", "role/replay-builds", "rolebinding/replay-builds"]

    release.helm("uninstall", "replay", "--wait")

    # The claim was asked to outlive the release.
    release.kube.wait_until(lambda: release.left() == ["persistentvolumeclaim/replay"], "nothing is left but the claim")
    release.kube.wait_until(lambda: not release.kube.has_namespace(builds), "the namespace of builds is gone")
    release.kube.delete("persistentvolumeclaims", release.namespace, "replay")


def test_the_engine_would_be_taken_but_for_its_privilege(release: Release, cluster: AnyCluster) -> None:
    values = merged(EVERYTHING, {"builds": {"namespace": release.namespace, "createNamespace": False}})
    documents = [one for one in render(values, "1.20.2") if one["metadata"]["name"] == "replay-engine"]
    assert sorted(one["kind"] for one in documents) == ["ConfigMap", "DaemonSet", "NetworkPolicy"]
    for document in documents:
        if document["kind"] == "DaemonSet":
            engine, cleaner = document["spec"]["template"]["spec"]["containers"]
            assert engine.pop("securityContext") == {"privileged": True}
            assert "privileged" not in cleaner["securityContext"]
        told = cluster.kubectl("apply", "--dry-run=server", "--filename=-", input=json.dumps(document))
        assert "created (server dry run)" in told


def test_a_package_installs_as_the_folder_does(release: Release, tmp_path: Path) -> None:
    release.helm("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.glob("*.tgz")
    values = merged(EVERYTHING, {"engine": {"enabled": False}, "service": {"replicas": 0}})
    values = merged(values, {"builds": {"namespace": f"{release.namespace}-builds"}})
    release.helm("install", "replay", str(package), values=values)
    data = release.kube.get("configmaps", release.namespace, "replay")
    assert data is not None
    assert data["data"]["jupyterhub_config.py"].rstrip() == (ROOT / "jupyterhub_config.py").read_text().rstrip()
    release.helm("uninstall", "replay")
