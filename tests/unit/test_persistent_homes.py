"""The recipe of docs/persistent-homes.md, as it is there: what becomes of it in a pod."""

import re
from typing import Any

import pytest
from jupyterhub.utils import maybe_future
from traitlets.config import Config

from replay_build_service.schemas import ImageModel
from tests.requirements import ROOT
from tests.unit.kube_cases import PLAN, Spawner, asked, no_cluster, notebook, spawner_of
from tests.unit.launch_plans import LAUNCH

__all__ = ["no_cluster"]

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)


@pytest.fixture(scope="module")
def recipe() -> Config:
    text = (ROOT / "docs" / "persistent-homes.md").read_text()
    (block,) = re.findall(r"<!-- This block is run by .*?-->\n```python\n(.*?)```", text, re.DOTALL)
    c = Config()
    exec(compile(block, "docs/persistent-homes.md", "exec"), {"c": c})
    return c


async def pod_of(spawner: Spawner, options: dict[str, Any]) -> dict[str, Any]:
    """By the steps and in the order in which JupyterHub and KubeSpawner take them."""
    await asked(spawner, options)
    await maybe_future(spawner.run_pre_spawn_hook())
    await spawner.load_user_options()
    return spawner._plain(await spawner.get_pod_manifest())


def with_recipe(recipe: Config, plan: Any = PLAN) -> Spawner:
    spawner = spawner_of(plan, **recipe.KubeSpawner)
    spawner.pre_spawn_hook = recipe.Spawner.pre_spawn_hook
    spawner.replay_session_volumes = recipe.ReplayKubeSpawner.replay_session_volumes
    return spawner


HOME = {"name": "home", "persistentVolumeClaim": {"claimName": "home-ada"}}


@pytest.mark.parametrize("home", ["/home/jovyan", "/srv/project"])
async def test_a_session_has_a_part_of_the_persons_volume_beside_the_repository(recipe: Config, home: str) -> None:
    image = ImageModel(user="4321", working_dir=home, home=None, entrypoint=[], command=[])
    spawner = with_recipe(recipe, PLAN.model_copy(update={"container": image}))
    pod = await pod_of(spawner, {"launch": LAUNCH})
    assert HOME in pod["spec"]["volumes"]
    mounts = [mount for mount in notebook(pod)["volumeMounts"] if mount["name"] == "home"]
    assert mounts == [{"name": "home", "mountPath": f"{home}/persistent", "subPath": "from-repositories"}]
    assert spawner.storage_pvc_ensure, "the claim is made before the pod"
    assert pod["spec"]["securityContext"]["fsGroup"] == 100
    assert notebook(pod)["securityContext"]["runAsUser"] == 4321
    claim = spawner._plain(spawner.get_pvc_manifest())
    assert claim["metadata"]["name"] == "home-ada"
    assert "replay.egi.eu/launch" not in claim["metadata"].get("labels", {}), "it is no leftover of the session"


async def test_an_ordinary_server_before_and_after_has_it_as_always(recipe: Config) -> None:
    spawner = with_recipe(recipe)
    before = await pod_of(spawner, {})
    await pod_of(spawner, {"launch": LAUNCH})
    after = await pod_of(spawner, {})
    assert notebook(before)["volumeMounts"] == [{"name": "home", "mountPath": "/home/jovyan"}]
    assert after == before


async def test_without_the_admins_word_no_session_has_it(recipe: Config) -> None:
    spawner = with_recipe(recipe)
    spawner.replay_session_volumes = []
    pod = await pod_of(spawner, {"launch": LAUNCH})
    assert "home" not in str(pod["spec"].get("volumes"))
    assert not spawner.storage_pvc_ensure
