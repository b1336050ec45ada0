"""The doctor at builds in Kubernetes, as accounts with more and fewer rights: what it says is what the cluster does."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from replay_build_service.app import ReplayBuildService
from replay_build_service.builders.kubernetes.client import Cluster, ClusterRefusal
from replay_build_service.doctor import Deployment
from replay_build_service.doctor.access import NoAccess
from replay_build_service.doctor.cluster import RIGHTS
from replay_build_service.doctor.examination import findings
from replay_build_service.doctor.verdicts import State, Verdict
from tests.cluster.accounts import Account, Rights
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube, small_pod
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.needs("cluster")

Namespaces = Callable[[str], str]


@pytest.fixture
def account(cluster: AnyCluster, kube: Kube, namespace: Namespaces, tmp_path: Path) -> Account:
    folder = tmp_path / "accounts"
    folder.mkdir()
    return Account(cluster, kube, namespace("builds"), folder)


def examined(account: Account, kubeconfig: Path, **settings: Any) -> dict[str, Verdict]:
    """What the doctor says of builds, by check."""
    given = {
        "builder": "kubernetes",
        "kubeconfig": str(kubeconfig),
        "build_namespace": account.namespace,
        "builder_image": "builder@sha256:1",
        **settings,
    }
    service = ReplayBuildService(**given)
    deployment = Deployment(service, "sqlite:///none", "upgrade-db", account.folder / "token", NoAccess("No.", "Yes."))
    found = {one.check: one.verdict for one in asyncio.run(findings(deployment))}
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    assert token not in str(found)
    return found


def without(resource: str, verb: str) -> Rights:
    return {name: [one for one in verbs if (name, one) != (resource, verb)] for name, verbs in RIGHTS.items()}


def test_an_account_with_all_rights_and_a_registry_is_well(account: Account, cluster_registry: RegistryServer) -> None:
    found = examined(account, account.with_rights(RIGHTS), registry=cluster_registry.url)
    assert found["rights"].state is State.OK, found["rights"]
    assert account.namespace in found["rights"].message
    assert found["build pods"].state is State.NOT_KNOWN, "whether anybody may push is not asked"
    assert found["engine"].state is State.NOT_USED
    assert found["registry"].state is State.NOT_KNOWN, found["registry"]
    assert "without an account" in found["registry"].message, "it takes pushes from anybody"


@pytest.mark.parametrize(("resource", "verb"), [(name, verb) for name, verbs in RIGHTS.items() for verb in verbs])
def test_each_right_that_lacks_is_named_and_no_other(account: Account, resource: str, verb: str) -> None:
    found = examined(account, account.with_rights(without(resource, verb)))
    assert found["rights"].state is State.FAILED
    assert f": {verb} {resource}." in found["rights"].message
    assert f"resources: [{resource}], verbs: [{verb}]" in found["rights"].remedy


async def test_what_is_said_is_what_the_cluster_does(account: Account) -> None:
    kubeconfig = await asyncio.to_thread(account.with_rights, without("pods", "list"))
    async with Cluster(account.namespace, str(kubeconfig)) as asking:
        with pytest.raises(ClusterRefusal) as refused:
            await asking.pods("app=engine")
    assert "cannot list" in refused.value.detail
    found = await asyncio.to_thread(examined, account, kubeconfig, build_engine_pods="app=engine")
    assert ": list pods." in found["rights"].message
    assert found["engine"].state is State.FAILED
    assert "cannot be listed: 403" in found["engine"].message


def test_an_account_of_another_namespace_or_of_nobody_may_nothing(account: Account, namespace: Namespaces) -> None:
    kubeconfig = account.with_rights(RIGHTS)
    elsewhere = examined(account, kubeconfig, build_namespace=namespace("other"))
    assert elsewhere["rights"].message.count(", ") == sum(len(verbs) for verbs in RIGHTS.values())
    told = yaml.safe_load(kubeconfig.read_text())
    told["users"][0]["user"]["token"] = "not-a-token"
    kubeconfig.write_text(yaml.safe_dump(told))
    nobody = examined(account, kubeconfig)
    assert nobody["rights"].state is State.FAILED
    assert "401" in nobody["rights"].message


def test_the_secret_for_pushing_is_looked_at_only_where_that_is_allowed(account: Account, kube: Kube) -> None:
    narrow, wide = account.with_rights(RIGHTS), account.with_rights({**RIGHTS, "secrets": ["get"]})
    found = examined(account, narrow, build_push_secret="push")
    assert found["build pods"].state is State.NOT_KNOWN, found["build pods"]
    assert f"kubectl -n {account.namespace} get secret/push" in found["build pods"].remedy
    missing = examined(account, wide, build_push_secret="push")["build pods"]
    assert (missing.state, "There is no Secret push" in missing.message) == (State.FAILED, True)
    secret = {
        "metadata": {"name": "push"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": '{"auths": {}}'},
    }
    kube.create("secrets", account.namespace, secret)
    assert examined(account, wide, build_push_secret="push")["build pods"].state is State.OK


def test_engines_count_once_they_are_ready(account: Account, kube: Kube, small_image: str) -> None:
    kubeconfig = account.with_rights(RIGHTS)
    none = examined(account, kubeconfig, build_engine_pods="app=engine")["engine"]
    assert (none.state, "None of 0 engines" in none.message) == (State.FAILED, True)
    pod = small_pod("engine", small_image, ["sh", "-c", "sleep 600"])
    pod["metadata"]["labels"] = {"app": "engine"}
    kube.create("pods", account.namespace, pod)
    kube.wait_for_phase(account.namespace, "engine", "Running")
    waiting = small_pod("late", small_image, ["sh", "-c", "sleep 600"])
    waiting["metadata"]["labels"] = {"app": "engine"}
    waiting["spec"]["nodeSelector"] = {"nobody": "has-this"}
    kube.create("pods", account.namespace, waiting)

    def is_ready() -> bool:
        engine = examined(account, kubeconfig, build_engine_pods="app=engine")["engine"]
        return engine.state is State.OK and "1 of 2 engines are ready; not late" in engine.message

    kube.wait_until(is_ready, "one engine is ready")
