"""What the chart's pods and accounts may do, read from the manifests. What a cluster makes of them is in `tests.cluster`."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from replay_build_service.builders.kubernetes import cleaner
from tests.unit.chart_rendering import (
    EVERYTHING,
    HOSTS_ENGINE,
    LEAST,
    SETS,
    Document,
    containers,
    environment,
    merged,
    one,
    pods,
    render,
)

pytestmark = pytest.mark.hub_independent

PRIVILEGED = {"engine"}
"""Containers that cannot do without."""


def every_container(values: Mapping[str, Any]) -> list[tuple[str, Document, Document]]:
    return [(container["name"], container, pod) for _, pod in pods(render(values)) for container in containers(pod)]


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_containers_may_do_nothing_that_they_need_not(values: Mapping[str, Any]) -> None:
    for name, container, pod in every_container(values):
        context = {**pod["securityContext"], **container["securityContext"]}
        if name in PRIVILEGED:
            continue
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "privileged" not in context, name


def test_the_service_is_nobody_special() -> None:
    (service,) = [pod for name, pod in pods(render()) if name == "replay"]
    assert service["securityContext"]["runAsNonRoot"] is True
    assert service["securityContext"]["runAsUser"] == 1000
    assert [volume for volume in service["volumes"] if "hostPath" in volume] == []
    assert "hostNetwork" not in service


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_only_the_service_has_a_token_of_kubernetes(values: Mapping[str, Any]) -> None:
    documents = render(values)
    with_token = [name for name, pod in pods(documents) if pod.get("automountServiceAccountToken", True)]
    assert with_token == ["replay"]
    for document in documents:
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False  # a pod that wants it says so


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_no_secret_is_in_an_environment(values: Mapping[str, Any]) -> None:
    for name, container, _ in every_container(values):
        assert not [variable for variable in container.get("env", ()) if "valueFrom" in variable], name
        assert "envFrom" not in container, name
        assert "JUPYTERHUB_API_TOKEN" not in environment(container), name
    (service,) = [container for name, container, _ in every_container(values) if name == "service"]
    assert environment(service)["REPLAY_API_TOKEN_FILE"] == "/etc/replay/secret/hub_token"
    assert environment(service)["REPLAY_TOKEN_FILE"] == "/etc/replay/secret/service_token"


def test_secrets_are_files_for_the_service_alone() -> None:
    for values in SETS.values():
        mounted = {
            source["secret"]["name"]: name
            for name, pod in pods(render(values))
            for volume in pod["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
            if "secret" in source
        }
        assert set(mounted.values()) == {"replay"}
        assert "hub" in mounted
        modes = {
            volume["projected"]["defaultMode"]
            for _, pod in pods(render(values))
            for volume in pod["volumes"]
            if "projected" in volume
        }
        assert modes == {0o440}


def test_config_maps_have_no_secrets() -> None:
    for values in SETS.values():
        for document in render(values):
            if document["kind"] == "ConfigMap":
                assert "service_token" not in document["data"]


def test_the_shared_token_is_as_the_service_wants_it() -> None:
    token = base64.b64decode(one(render(), "Secret", "replay")["data"]["service_token"])
    assert re.fullmatch(rb"[0-9a-f]{64}", token)
    assert [one for one in render(HOSTS_ENGINE) if one["kind"] == "Secret"] == []


# ---- accounts

RIGHTS = {
    ("pods", "get"), ("pods", "list"), ("pods", "watch"), ("pods", "create"), ("pods", "delete"),
    ("pods/log", "get"), ("pods/exec", "get"), ("pods/exec", "create"), ("events", "list"),
}  # fmt: skip


def rights(role: Document) -> set[tuple[str, str]]:
    """By the resource's name, with its group where that is not the core one."""
    assert not [rule for rule in role["rules"] if "resourceNames" in rule]
    return {
        (f"{resource}.{group}".rstrip("."), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("values", "namespace"), [(LEAST, "jupyter-builds"), (EVERYTHING, "replay-builds")])
def test_the_service_may_run_builds_and_nothing_else(values: Mapping[str, Any], namespace: str) -> None:
    documents = render(values)
    kinds = [document["kind"] for document in documents]
    assert "ClusterRole" not in kinds
    assert "ClusterRoleBinding" not in kinds
    assert {one["metadata"]["name"] for one in documents if one["kind"] == "Role"} == {"replay-builds", "replay-hub"}

    assert rights(one(documents, "Role", "replay-builds")) == RIGHTS
    binding = one(documents, "RoleBinding", "replay-builds")
    # Who may make pods in a namespace can mount its Secrets: the hub's are elsewhere.
    assert namespace != "jupyter"
    assert binding["metadata"]["namespace"] == namespace
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "replay", "namespace": "jupyter"}]


def test_the_hub_may_read_what_a_session_said_and_uses() -> None:
    documents = render()
    assert rights(one(documents, "Role", "replay-hub")) == {
        ("pods/log", "get"), ("pods", "patch"), ("secrets", "patch"), ("pods.metrics.k8s.io", "get"),
    }  # fmt: skip
    (subject,) = one(documents, "RoleBinding", "replay-hub")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "hub", "namespace": "jupyter"}


def test_rights_can_be_the_admins_own_business() -> None:
    kinds = {document["kind"] for document in render(HOSTS_ENGINE)}
    assert not kinds & {"Role", "RoleBinding", "ServiceAccount"}
    (service,) = [pod for _, pod in pods(render(HOSTS_ENGINE))]
    assert service["serviceAccountName"] == "mine"


# ---- the engine


def test_the_engine_listens_on_its_socket_alone() -> None:
    config = json.loads(one(render(), "ConfigMap", "replay-engine")["data"]["daemon.json"])
    assert config["hosts"] == ["unix:///run/replay-engine/docker.sock"]
    assert config["icc"] is False
    (engine,) = [pod for name, pod in pods(render()) if name == "replay-engine"]
    assert "hostNetwork" not in engine
    assert "hostPID" not in engine
    assert [container.get("ports") for container in engine["containers"]] == [None, None]


def test_the_admin_has_the_last_word_on_the_engine() -> None:
    config = json.loads(one(render(EVERYTHING), "ConfigMap", "replay-engine")["data"]["daemon.json"])
    assert config["icc"] is True
    assert config["insecure-registries"] == ["10.0.0.1:5000"]
    assert config["builder"]["gc"] == {"enabled": True}


def test_builds_of_a_node_share_a_limit() -> None:
    (engine,) = [pod for name, pod in pods(render()) if name == "replay-engine"]
    assert engine["containers"][0]["resources"]["limits"]["memory"] == "8Gi"


def test_the_cleaner_gets_what_its_command_line_takes() -> None:
    (engine,) = [pod for name, pod in pods(render()) if name == "replay-engine"]
    (container,) = [one for one in engine["containers"] if one["name"] == "cleaner"]
    assert container["args"][:3] == ["python3", "-m", cleaner.__name__]
    options = cleaner.parse(container["args"][3:])
    assert (options.start_percent, options.stop_percent, options.minimum_age) == (80, 60, 7200)
    assert options.data == "/var/lib/replay-engine"
    assert {mount["mountPath"]: mount["readOnly"] for mount in container["volumeMounts"]} == {
        "/run/replay-engine": True,
        "/var/lib/replay-engine": True,
    }
    without = merged(LEAST, {"engine": {"cleaner": {"enabled": False}}})
    (engine,) = [pod for name, pod in pods(render(without)) if name == "replay-engine"]
    assert len(engine["containers"]) == 1
