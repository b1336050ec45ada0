"""What a VO's policy makes of a session: GPUs and nodes in a cluster, GPUs on an engine, and the VO's mark."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado import web

from replay_build_service.schemas import GPUsModel, LaunchPlan, PlacementModel, ResourcesModel, TolerationModel
from replay_spawner import ReplayLocalSpawner
from replay_spawner.docker.containers import NotForSessions, host_config
from replay_spawner.plans import label_value
from tests.unit.kube_cases import PLAN, no_cluster, notebook, spawned, spawner_of

GPU = GPUsModel(resource="nvidia.com/gpu", count=2)
NODES = PlacementModel(
    node_selector={"pool": "gpu"},
    tolerations=[TolerationModel(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
)


def plan(**changes: Any) -> LaunchPlan:
    return PLAN.model_copy(update=changes)


@pytest.mark.usefixtures(no_cluster.__name__)
async def test_a_sessions_pod_has_the_policys_gpus_and_nodes_and_an_ordinary_server_the_admins() -> None:
    resources = PLAN.resources.model_copy(update={"gpus": GPU})
    admins = {
        "extra_resource_limits": {"nvidia.com/gpu": "8", "example.com/fpga": "1"},
        "extra_resource_guarantees": {"nvidia.com/gpu": "8"},
        "node_selector": {"disk": "fast", "pool": "users"},
        "tolerations": [{"key": "users", "operator": "Exists"}],
    }
    spawner = spawner_of(plan(resources=resources, placement=NODES), **admins)
    pod = await spawned(spawner)
    limits, requests = notebook(pod)["resources"]["limits"], notebook(pod)["resources"]["requests"]
    assert (limits["nvidia.com/gpu"], requests["nvidia.com/gpu"]) == (2, 2)
    assert limits["example.com/fpga"] == "1"
    assert (limits["memory"], requests["memory"]) == (resources.memory_limit, resources.memory_guarantee)
    assert pod["spec"]["nodeSelector"] == {"disk": "fast", "pool": "gpu"}
    told = pod["spec"]["tolerations"]
    assert {"key": "users", "operator": "Exists"} in told
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in told
    ordinary = await spawned(spawner, {})
    assert ordinary["spec"]["nodeSelector"] == {"disk": "fast", "pool": "users"}
    assert notebook(ordinary)["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "egi.eu/primary_group" not in ordinary["metadata"]["labels"]


@pytest.mark.usefixtures(no_cluster.__name__)
async def test_without_gpus_in_the_policy_the_admins_stay() -> None:
    pod = await spawned(spawner_of(extra_resource_limits={"nvidia.com/gpu": "1"}))
    assert notebook(pod)["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    "vo", ["vo.notebooks.egi.eu", "urn:geant:eduteams.org:group:LAGO AAI#eduteams.org", "<b>vo</b>/.."]
)
@pytest.mark.usefixtures(no_cluster.__name__)
async def test_accounting_finds_the_vo_on_the_pod(vo: str) -> None:
    metadata = (await spawned(spawner_of(plan(vo=vo))))["metadata"]
    assert metadata["annotations"]["egi.eu/primary_group"] == vo
    assert metadata["labels"]["egi.eu/primary_group"] == label_value(vo)


# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


@given(st.text(max_size=300))
def test_any_name_makes_a_label_that_kubernetes_takes(text: str) -> None:
    made = label_value(text)
    assert _VALUE.fullmatch(made)
    assert len(made) <= 63


def test_names_that_fit_stay_and_others_never_share_a_label() -> None:
    assert label_value("vo.notebooks.egi.eu") == "vo.notebooks.egi.eu"
    names = ["vo.a:b", "vo.a b", "vo.a-b", "a" * 63, "a" * 64, "a" * 65, "-", "--", "/", "ä", "é"]
    assert len({label_value(name) for name in names}) == len(names)


def engine(resources: ResourcesModel) -> dict[str, Any]:
    return host_config({}, resources, network="bridge", links={}, binds={}, publish=None, most_processes=100)


def test_an_engine_gives_the_policys_gpus() -> None:
    (request,) = engine(ResourcesModel(gpus=GPU))["device_requests"]
    assert (request["Count"], request["Capabilities"]) == (2, [["gpu"]])
    assert "device_requests" not in engine(ResourcesModel())


def test_an_engine_refuses_gpus_that_it_does_not_know() -> None:
    with pytest.raises(NotForSessions, match=r"wants amd\.com/gpu for sessions, and a container engine knows"):
        engine(ResourcesModel(gpus=GPUsModel(resource="amd.com/gpu", count=1)))


async def test_a_plain_process_is_given_no_gpus_and_says_so() -> None:
    spawner = ReplayLocalSpawner()
    spawner.plan = plan(resources=ResourcesModel(gpus=GPU))
    with pytest.raises(web.HTTPError) as refused:
        await spawner.start()
    assert "cannot be given GPUs" in str(refused.value.log_message)
