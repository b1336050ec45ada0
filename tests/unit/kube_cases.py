"""What tests of the cluster's spawner share: a plan, a hub's configuration, and a spawner as JupyterHub uses it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_asyncio.config import kube_config
from kubespawner.clients import shared_client
from traitlets.config import Config

from replay_build_service.schemas import ImageModel, LaunchPlan, PlanRequest
from replay_spawner.kube import ReplayKubeSpawner
from tests.unit.launch_plans import LAUNCH
from tests.unit.launch_plans import PLAN as ANY_PLAN

IMAGE = ImageModel(user="1000", working_dir="/home/jovyan", home=None, entrypoint=["/entry"], command=[])
PLAN = ANY_PLAN.model_copy(update={"container": IMAGE, "environment": {"OF_THE_IMAGE": "yes", "SET_BY_BOTH": "plan"}})

# A hub as many have it: a default image, a profile that is chosen where nobody chooses, and one that somebody may.
ADMINS: dict[str, Any] = {
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


@pytest.fixture
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
        assert request.launch == self.answer.launch
        return self.answer


class Spawner(ReplayKubeSpawner):
    service: AnsweringService

    def _client(self) -> Any:
        return self.service


def spawner_of(plan: LaunchPlan = PLAN, *, user: str = "ada", server_name: str = "", **settings: Any) -> Spawner:
    """A spawner of that person's, in a hub with these settings of KubeSpawner."""
    known = SimpleNamespace(api_tokens=[])
    person = SimpleNamespace(
        name=user, id=1, url="/user/ada/", escaped_name="ada", groups=[], settings={}, orm_user=known
    )
    made = Spawner(
        _mock=True,
        config=Config(KubeSpawner=settings),
        user=person,
        orm_spawner=SimpleNamespace(name=server_name, user_options={}, server=None),
        api_token="",
    )
    made.service = AnsweringService(plan)
    return made


async def asked(spawner: Spawner, options: dict[str, Any]) -> None:
    """What JupyterHub does with the options of a ``POST …/server``."""
    request = SimpleNamespace(method="POST", body=json.dumps(options).encode())
    spawner.handler = SimpleNamespace(request=request, settings={})  # type: ignore[assignment]
    spawner.user_options = options
    await spawner._run_apply_user_options(options)


async def spawned(spawner: Spawner, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """The pod's manifest as the API gets it, by the steps and in the order in which JupyterHub and KubeSpawner take them."""
    await asked(spawner, {"launch": LAUNCH} if options is None else options)
    await spawner.load_user_options()
    return spawner._plain(await spawner.get_pod_manifest())


def notebook(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "notebook"]
    return container


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in notebook(pod)["env"] if "value" in one}
