"""The pod that a launch becomes, and the one that an ordinary server stays: KubeSpawner's own manifests, without a cluster."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_asyncio.config import kube_config
from kubespawner.clients import shared_client
from tornado import web
from traitlets.config import Config

from replay_build_service.schemas import LaunchPlan, PlanRequest, ResourcesModel
from replay_spawner.kube import ReplayKubeSpawner

GIB = 1024**3
LAUNCH = "0123456789abcdef" * 2
DIGEST = "sha256:" + "ab" * 32

PLAN = LaunchPlan(
    launch=LAUNCH,
    vo="vo.notebooks.egi.eu",
    repository="https://github.com/EGI-Federation/binder-example",
    version="c0ffee" * 6 + "c0ff",
    link="/v2/gh/EGI-Federation/binder-example/HEAD",
    image=DIGEST,
    location=f"registry.example.org/replay/binder-example@{DIGEST}",
    command=["jupyterhub-singleuser"],
    environment={"OF_THE_IMAGE": "yes", "SET_BY_BOTH": "plan"},
    source=None,
    resources=ResourcesModel(memory_guarantee=2 * GIB, memory_limit=4 * GIB, cpu_guarantee=0.5, cpu_limit=2.0),
)

# A hub as many have it: a default image, a profile that is chosen where nobody chooses, and one that somebody may.
ADMINS = {
    "image": "admin/notebook:1",
    "cmd": ["start-singleuser.sh"],
    "environment": {"OF_THE_ADMIN": "yes", "SET_BY_BOTH": "admin"},
    "extra_annotations": {"admin.example.org/flavour": "small"},
    "mem_guarantee": "1G",
    "mem_limit": "1G",
    "profile_list": [
        {
            "display_name": "Large",
            "slug": "large",
            "default": True,
            "kubespawner_override": {
                "image": "admin/large:1",
                "mem_guarantee": "8G",
                "mem_limit": "16G",
                "cpu_limit": 8,
                "cmd": ["large.sh"],
                "environment": {"OF_THE_PROFILE": "yes"},
            },
        },
        {
            "display_name": "Small",
            "slug": "small",
            "kubespawner_override": {"image": "admin/small:1", "mem_limit": "2G"},
        },
    ],
}


@pytest.fixture(autouse=True)
async def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """KubeSpawner wants to know of a cluster before it makes anything; this one is never asked."""
    config = {
        "current-context": "none",
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "none", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    yield
    await shared_client("CoreV1Api").api_client.close()


class AnsweringService:
    """The service, as its client shows it to the spawner."""

    def __init__(self, plan: LaunchPlan) -> None:
        self.answer = plan

    async def plan(self, request: PlanRequest) -> LaunchPlan:
        assert (request.user, request.launch) == ("ada", LAUNCH)
        return self.answer


class Spawner(ReplayKubeSpawner):
    service: AnsweringService

    def _client(self) -> Any:
        return self.service


def spawner_of(plan: LaunchPlan = PLAN, **settings: Any) -> Spawner:
    user = SimpleNamespace(name="ada", id=1, url="/user/ada/", escaped_name="ada", groups=[])
    made = Spawner(
        _mock=True,
        config=Config(KubeSpawner=ADMINS | settings),
        user=user,
        orm_spawner=SimpleNamespace(name="", user_options={}, server=None),
        api_token="",
    )
    made.service = AnsweringService(plan)
    return made


async def spawned(spawner: Spawner, options: dict[str, Any]) -> dict[str, Any]:
    """The pod's manifest, by the steps and in the order in which JupyterHub and KubeSpawner take them for a ``POST …/server``."""
    request = SimpleNamespace(method="POST", body=json.dumps(options).encode())
    spawner.handler = SimpleNamespace(request=request, settings={})  # type: ignore[assignment]
    spawner.user_options = options
    await spawner._run_apply_user_options(options)
    await spawner.load_user_options()
    return (await spawner.get_pod_manifest()).to_dict()


def notebook(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return container


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {
        variable["name"]: variable["value"] for variable in notebook(pod)["env"] if variable.get("value") is not None
    }


async def test_a_launch_wins_over_the_default_profile_and_the_admins_image() -> None:
    pod = await spawned(spawner_of(), {"launch": LAUNCH})
    container = notebook(pod)
    assert container["name"] == "notebook", "accounting finds it by this name"
    assert container["image"] == f"registry.example.org/replay/binder-example@{DIGEST}"
    assert container["args"][:1] == ["jupyterhub-singleuser"]
    assert container["resources"]["requests"] == {"memory": 2 * GIB, "cpu": 0.5}
    assert container["resources"]["limits"] == {"memory": 4 * GIB, "cpu": 2.0}


async def test_a_launch_tells_accounting_and_the_session_what_it_is() -> None:
    pod = await spawned(spawner_of(), {"launch": LAUNCH})
    annotations = pod["metadata"]["annotations"]
    assert annotations["egi.eu/primary_group"] == "vo.notebooks.egi.eu"
    assert annotations["replay.egi.eu/launch"] == LAUNCH
    assert annotations["replay.egi.eu/repository"] == PLAN.repository
    assert annotations["replay.egi.eu/commit"] == PLAN.version
    assert annotations["hub.jupyter.org/username"] == "ada"
    assert annotations["admin.example.org/flavour"] == "small", "the admin's own stay"
    told = environment(pod)
    assert told["REPLAY_LINK"] == PLAN.link
    assert told["REPLAY_COMMIT"] == PLAN.version
    assert told["OF_THE_IMAGE"] == "yes"
    assert told["SET_BY_BOTH"] == "plan"
    assert (told["MEM_GUARANTEE"], told["MEM_LIMIT"]) == (str(2 * GIB), str(4 * GIB))


@pytest.mark.parametrize("options", [{"launch": LAUNCH, "profile": "small"}, {"launch": LAUNCH, "profile": "large"}])
async def test_a_launch_wins_over_a_profile_that_was_asked_for_with_it(options: dict[str, Any]) -> None:
    container = notebook(await spawned(spawner_of(), options))
    assert container["image"] == PLAN.location
    assert container["resources"]["limits"]["memory"] == 4 * GIB


async def test_a_plan_without_limits_has_none_of_the_profiles_either() -> None:
    unlimited = PLAN.model_copy(update={"resources": ResourcesModel()})
    resources = notebook(await spawned(spawner_of(unlimited), {"launch": LAUNCH}))["resources"]
    assert not resources["limits"]
    assert not resources["requests"]


@pytest.mark.parametrize(
    ("options", "image", "limit"),
    [({}, "admin/large:1", 16 * GIB), ({"profile": "small"}, "admin/small:1", 2 * GIB)],
    ids=["default profile", "chosen profile"],
)
async def test_without_a_launch_the_pod_is_the_admins(options: dict[str, Any], image: str, limit: int) -> None:
    pod = await spawned(spawner_of(), options)
    assert notebook(pod)["image"] == image
    assert notebook(pod)["resources"]["limits"]["memory"] == limit
    assert not [name for name in environment(pod) if name.startswith("REPLAY_")]
    assert not [name for name in pod["metadata"]["annotations"] if "replay" in name or "primary_group" in name]


@pytest.mark.parametrize("settings", [{}, {"profile_list": []}], ids=["profiles", "no profiles"])
@pytest.mark.parametrize("options", [{}, {"launch": LAUNCH, "stored": True}], ids=["plain", "stored options"])
async def test_an_ordinary_server_after_a_launch_is_as_one_before(
    settings: dict[str, Any], options: dict[str, Any]
) -> None:
    spawner = spawner_of(**settings)
    never_launched = await spawned(spawner_of(**settings), {})
    await spawned(spawner, {"launch": LAUNCH})
    if options:
        # JupyterHub brings what is stored, and the request itself names nothing.
        request = SimpleNamespace(method="POST", body=b"")
        spawner.handler = SimpleNamespace(request=request, settings={})  # type: ignore[assignment]
        spawner.user_options = spawner.orm_spawner.user_options
        assert spawner.user_options == {"launch": LAUNCH}
        await spawner._run_apply_user_options(spawner.user_options)
        await spawner.load_user_options()
        after = (await spawner.get_pod_manifest()).to_dict()
    else:
        after = await spawned(spawner, {})
    assert after == never_launched


@pytest.mark.parametrize(
    "location",
    ["registry.example.org/replay/binder-example:latest", "registry.example.org/replay/binder-example", "x@sha256"],
)
async def test_an_image_that_is_not_named_by_its_digest_is_refused(location: str) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await spawned(spawner_of(PLAN.model_copy(update={"location": location})), {"launch": LAUNCH})
    assert refused.value.status_code == 422
    assert "digest" in str(refused.value.log_message)
