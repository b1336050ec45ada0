"""What the doctor makes of a cluster's answers; a real cluster is asked in ``tests/cluster/test_doctor.py``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kmock as kmocks
import pytest

from replay_build_service.app import ReplayBuildService
from replay_build_service.doctor.cluster import RIGHTS, check_build_pods, check_engine_pods, check_rights
from replay_build_service.doctor.verdicts import State
from tests.unit.doctor_cases import SECRET, nowhere, told

pytestmark = pytest.mark.kmock(cls=kmocks.RawHandler)


REVIEWS = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
def kubeconfig(kmock: kmocks.RawHandler, tmp_path: Path) -> str:
    file = tmp_path / "kubeconfig"
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": str(kmock.url)}}],
        "users": [{"name": "u", "user": {"token": SECRET}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(told))
    return str(file)


def in_cluster(kubeconfig: str, **more: object) -> ReplayBuildService:
    return ReplayBuildService(builder="kubernetes", kubeconfig=kubeconfig, build_namespace="builds", **more)


def review(without: set[tuple[str, str]]) -> Callable[[Any], dict[str, Any]]:
    def answer(request: Any) -> dict[str, Any]:
        asked = request.data["spec"]["resourceAttributes"]
        assert asked["namespace"] == "builds"
        name = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": request.data["spec"],
            "status": {"allowed": (asked["verb"], name) not in without},
        }

    return answer


async def test_every_right_is_asked_for_and_those_that_lack_are_named(
    kmock: kmocks.RawHandler, kubeconfig: str
) -> None:
    kmock[REVIEWS] << review({("create", "pods/exec"), ("list", "events")})
    verdict = await check_rights(in_cluster(kubeconfig))
    assert verdict.state is State.FAILED
    assert "create pods/exec, list events" in verdict.message
    assert "resources: [events, pods/exec], verbs: [create, list]" in verdict.remedy
    asked = [request.data["spec"]["resourceAttributes"] for request in kmock[REVIEWS]]
    named = {("/".join(filter(None, (one["resource"], one.get("subresource")))), one["verb"]) for one in asked}
    assert named == {(resource, verb) for resource, verbs in RIGHTS.items() for verb in verbs}


async def test_an_account_with_every_right_may_build(kmock: kmocks.RawHandler, kubeconfig: str) -> None:
    kmock[REVIEWS] << review(set())
    verdict = await check_rights(in_cluster(kubeconfig))
    assert (verdict.state, "namespace builds" in verdict.message) == (State.OK, True)


@pytest.mark.parametrize(("own", "is_told"), [("builds\n", True), ("jupyter\n", False)])
async def test_builds_in_the_services_own_namespace_are_told(
    kmock: kmocks.RawHandler, kubeconfig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, is_told: bool
) -> None:
    (tmp_path / "namespace").write_text(own)
    monkeypatch.setattr("replay_build_service.builders.kubernetes.client._NAMESPACE_FILE", tmp_path / "namespace")
    kmock[REVIEWS] << review(set())
    verdict = await check_rights(in_cluster(kubeconfig))
    assert verdict.state is State.OK
    assert ("its own namespace" in verdict.message, "build_namespace" in verdict.remedy) == (is_told, is_told)


@pytest.mark.parametrize(
    ("answer", "words"), [(401, "401"), (403, "does not say"), (503, "503"), (b"<html>", "makes no sense")]
)
async def test_a_cluster_that_refuses_or_fails_is_told(
    kmock: kmocks.RawHandler, kubeconfig: str, answer: Any, words: str
) -> None:
    kmock[REVIEWS] << answer
    verdict = await check_rights(in_cluster(kubeconfig))
    assert verdict.state is State.FAILED
    assert words in verdict.message
    assert SECRET not in told(verdict)


async def test_a_cluster_that_is_not_there_or_not_named_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    missing = await check_rights(in_cluster(str(tmp_path / "none")))
    assert "nothing says how it is reached" in missing.message
    file = tmp_path / "config"
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": nowhere()}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    away = await check_rights(in_cluster(str(file)))
    file.write_text("{")
    broken = await check_rights(in_cluster(str(file)))
    homeless = await check_rights(ReplayBuildService(builder="kubernetes", kubeconfig=str(file)))
    for verdict in (missing, away, broken, homeless):
        assert verdict.state is State.FAILED
        assert verdict.message.startswith("Kubernetes cannot be asked: ")


SECRETS, MAPS = "get /api/v1/namespaces/builds/secrets/push", "get /api/v1/namespaces/builds/configmaps/authorities"


def secret(kind: str = "kubernetes.io/dockerconfigjson", key: str = ".dockerconfigjson") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "push"}, "type": kind, "data": {key: "e30="}}


@pytest.mark.parametrize(
    ("pushing", "authorities", "state", "words"),
    [
        (secret(), {"ca.crt": "…"}, State.OK, "what their settings name is there"),
        (403, {"ca.crt": "…"}, State.NOT_KNOWN, "may not look at Secret push"),
        (403, 403, State.NOT_KNOWN, "Secret push and ConfigMap authorities"),
        (404, {"ca.crt": "…"}, State.FAILED, "There is no Secret push in the namespace builds"),
        (secret("Opaque", "config.json"), {"ca.crt": "…"}, State.FAILED, "has no .dockerconfigjson"),
        (secret(), {"other": "…"}, State.FAILED, "The ConfigMap authorities has no ca.crt"),
        (secret(), 404, State.FAILED, "There is no ConfigMap authorities"),
    ],
)  # fmt: skip
async def test_what_build_pods_are_made_of_is_looked_at_where_it_may_be(
    kmock: kmocks.RawHandler, kubeconfig: str, pushing: Any, authorities: Any, state: State, words: str
) -> None:
    kmock[SECRETS] << pushing
    kmock[MAPS] << (
        authorities
        if isinstance(authorities, int)
        else {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": authorities}
    )
    settings = in_cluster(
        kubeconfig, builder_image="builder@sha256:1", build_push_secret="push", build_ca_config_map="authorities"
    )
    verdict = await check_build_pods(settings)
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert "e30=" not in told(verdict)


async def test_build_pods_without_an_image_cannot_be(kubeconfig: str) -> None:
    assert (await check_build_pods(in_cluster(kubeconfig))).state is State.FAILED
    told = await check_build_pods(in_cluster(kubeconfig, builder_image="b"))
    assert told.state is State.NOT_KNOWN, "whether anybody may push"
    assert "without an account" in told.remedy


def engine_pod(name: str, ready: str, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **metadata},
        "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("pods", "state", "words"),
    [
        ([engine_pod("a", "True"), engine_pod("b", "True")], State.OK, "All 2 engines"),
        ([engine_pod("a", "True"), engine_pod("b", "False")], State.OK, "1 of 2 engines are ready; not b"),
        ([engine_pod("a", "False")], State.FAILED, "None of 1 engines"),
        ([engine_pod("a", "True", deletionTimestamp="2026-01-01T00:00:00Z")], State.FAILED, "None of 1"),
        ([{"metadata": {"name": "a"}}], State.FAILED, "None of 1"),
        ([], State.FAILED, "None of 0 engines"),
    ],
)  # fmt: skip
async def test_engines_are_ready_or_builds_wait(
    kmock: kmocks.RawHandler, kubeconfig: str, pods: list[Any], state: State, words: str
) -> None:
    kmock["get /api/v1/namespaces/builds/pods"] << {"apiVersion": "v1", "kind": "PodList", "items": pods}
    verdict = await check_engine_pods(in_cluster(kubeconfig, build_engine_pods="app=engine"))
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert kmock["get /api/v1/namespaces/builds/pods"][0].params["labelSelector"] == "app=engine"


async def test_engines_are_looked_for_where_they_are_named(kmock: kmocks.RawHandler, kubeconfig: str) -> None:
    assert (await check_engine_pods(in_cluster(kubeconfig))).state is State.NOT_USED
    kmock["get /api/v1/namespaces/builds/pods"] << 403
    refused = await check_engine_pods(in_cluster(kubeconfig, build_engine_pods="app=engine"))
    assert (refused.state, "cannot be listed: 403" in refused.message) == (State.FAILED, True)
