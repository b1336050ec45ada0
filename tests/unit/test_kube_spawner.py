"""The pod that a launch becomes, and the one that an ordinary server stays: KubeSpawner's own manifests, without a cluster."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from kubespawner import KubeSpawner
from kubespawner.slugs import is_valid_label

from replay_build_service.schemas import ResourcesModel
from tests.unit.kube_cases import (
    ADMINS,
    PLAN,
    Spawner,
    environment,
    no_cluster,
    notebook,
    spawned,
    spawner_of,
)
from tests.unit.launch_plans import DIGEST, GIB, LAUNCH

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)


def test_a_hub_without_kubespawner_imports_the_package() -> None:
    program = "import sys; sys.modules['kubespawner'] = sys.modules['kubernetes_asyncio'] = None; import replay_spawner"
    subprocess.run([sys.executable, "-c", program], check=True)


# the plan, over whatever was set before


async def test_a_launch_wins_over_the_default_profile_and_the_admins_image() -> None:
    pod = await spawned(spawner_of(**ADMINS))
    container = notebook(pod)
    assert container["name"] == "notebook", "accounting finds it by this name"
    assert container["image"] == f"registry.example.org/replay/binder-example@{DIGEST}"
    assert container["args"] == ["jupyterhub-singleuser"]
    assert "command" not in container, "the image's own entrypoint runs it"
    assert "workingDir" not in container
    assert container["resources"]["requests"] == {"memory": 2 * GIB, "cpu": 0.5}
    assert container["resources"]["limits"] == {"memory": 4 * GIB, "cpu": 2.0}


async def test_what_is_the_image_s_own_is_not_the_admins() -> None:
    pod = await spawned(
        spawner_of(
            **ADMINS,
            args=["--for-the-admins-image"],
            working_dir="/srv/course",
            notebook_dir="/srv/course",
            default_url="/the-admins",
            image_pull_policy="Always",
            extra_container_config={"command": ["tini", "--"], "image": "admin/other:2"},
        )
    )
    container = notebook(pod)
    assert container["args"] == ["jupyterhub-singleuser"]
    assert (container["image"], container["imagePullPolicy"]) == (PLAN.location, "IfNotPresent")
    assert not {"command", "workingDir"} & container.keys()
    assert not {"JUPYTERHUB_ROOT_DIR", "JUPYTERHUB_DEFAULT_URL"} & environment(pod).keys()


async def test_jupyter_needs_no_home_that_can_be_written_unless_the_admin_says_where() -> None:
    assert environment(await spawned(spawner_of()))["JUPYTER_RUNTIME_DIR"] == "/tmp/.jupyter-runtime"
    chosen = {"JUPYTER_RUNTIME_DIR": "/run/jupyter"}
    assert environment(await spawned(spawner_of(environment=chosen)))["JUPYTER_RUNTIME_DIR"] == "/run/jupyter"
    assert "JUPYTER_RUNTIME_DIR" not in environment(await spawned(spawner_of(), {})), (
        "an ordinary server is the admin's"
    )


async def test_a_launch_tells_accounting_and_the_session_what_it_is() -> None:
    pod = await spawned(spawner_of(**ADMINS))
    annotations = pod["metadata"]["annotations"]
    assert annotations["egi.eu/primary_group"] == "vo.notebooks.egi.eu"
    assert annotations["replay.egi.eu/launch"] == LAUNCH
    assert annotations["replay.egi.eu/repository"] == PLAN.repository
    assert annotations["replay.egi.eu/commit"] == PLAN.version
    assert annotations["hub.jupyter.org/username"] == "ada"
    assert annotations["admin.example.org/flavour"] == "small", "the admin's own stay"
    assert pod["metadata"]["labels"]["replay.egi.eu/launch"] == LAUNCH
    told = environment(pod)
    assert told["REPLAY_LINK"] == PLAN.link
    assert told["REPLAY_COMMIT"] == PLAN.version
    assert told["OF_THE_IMAGE"] == "yes"
    assert (told["OF_THE_ADMIN"], told["OF_THE_PROFILE"]) == ("yes", "yes")
    assert told["SET_BY_BOTH"] == "plan"
    assert (told["MEM_GUARANTEE"], told["MEM_LIMIT"]) == (str(2 * GIB), str(4 * GIB))


@pytest.mark.parametrize("options", [{"launch": LAUNCH, "profile": "small"}, {"launch": LAUNCH, "profile": "large"}])
async def test_a_launch_wins_over_a_profile_that_was_asked_for_with_it(options: dict[str, Any]) -> None:
    container = notebook(await spawned(spawner_of(**ADMINS), options))
    assert container["image"] == PLAN.location
    assert container["resources"]["limits"]["memory"] == 4 * GIB


@pytest.mark.parametrize(
    ("resources", "requests", "limits"),
    [
        (ResourcesModel(), {"memory": 8 * GIB, "cpu": "4"}, {"memory": "64G", "cpu": 8}),
        # Without a word on requests, Kubernetes would reserve the limit.
        (ResourcesModel(memory_limit=GIB, cpu_limit=2.0), {"memory": 0, "cpu": 0}, {"memory": GIB, "cpu": 2.0}),
        (ResourcesModel(memory_guarantee=GIB), {"memory": GIB, "cpu": "4"}, {"cpu": 8}),
        (
            ResourcesModel(memory_guarantee=2 * GIB, memory_limit=GIB),
            {"memory": GIB, "cpu": "4"},
            {"memory": GIB, "cpu": 8},
        ),
        (ResourcesModel(cpu_limit=2.0), {"memory": 8 * GIB, "cpu": 0}, {"memory": "64G", "cpu": 2.0}),
    ],
)
async def test_memory_and_cpu_are_the_plans_where_it_says_something_of_them(
    resources: ResourcesModel, requests: dict[str, Any], limits: dict[str, Any]
) -> None:
    plan = PLAN.model_copy(update={"resources": resources})
    gpu = {"nvidia.com/gpu": "1"}
    admins = spawner_of(
        plan, **ADMINS, extra_resource_limits=gpu | {"memory": "64G"}, extra_resource_guarantees={"cpu": "4"}
    )
    told = notebook(await spawned(admins))["resources"]
    assert told.get("requests", {}) == requests
    assert told["limits"] == limits | gpu, "what the plan says nothing of stays"


async def test_what_strangers_wrote_is_neither_a_template_nor_a_variable() -> None:
    odd = "https://git.example.org/{username:>99}/{prefix}/$(JUPYTERHUB_API_TOKEN)/$$"
    plan = PLAN.model_copy(
        update={
            "repository": odd,
            "link": f"/v2/{odd}",
            "environment": {"ODD": odd, "HOME_IS": "{home}/files"},
            "command": ["jupyterhub-singleuser", "--x=$(HOME)"],
        }
    )
    pod = await spawned(spawner_of(plan, **ADMINS))
    assert pod["metadata"]["annotations"]["replay.egi.eu/repository"] == odd
    # Of “$$”, Kubernetes makes “$”.
    assert environment(pod)["ODD"] == odd.replace("$", "$$")
    assert environment(pod)["REPLAY_LINK"] == f"/v2/{odd}".replace("$", "$$")
    assert environment(pod)["HOME_IS"] == "/home/jovyan/files"
    assert notebook(pod)["args"] == ["jupyterhub-singleuser", "--x=$$(HOME)"]


async def test_all_else_of_the_admins_stays() -> None:
    elsewhere = {"name": "sidecar", "image": "admin/sidecar:1"}
    pod = await spawned(
        spawner_of(
            **ADMINS,
            pod_name_template="site-{user_server}",
            extra_labels={"site": "{username}"},
            common_labels={"app": "jupyterhub"},
            node_selector={"kind": "sessions"},
            tolerations=[{"key": "sessions", "operator": "Exists"}],
            priority_class_name="people",
            scheduler_name="users",
            image_pull_secrets=["registry"],
            fs_gid=100,
            supplemental_gids=[5000],
            service_account="{username}-account",
            init_containers=[{"name": "firewall", "image": "admin/firewall:1"}],
            extra_containers=[elsewhere],
            extra_pod_config={"dnsPolicy": "Default", "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["x"]}]},
            extra_container_config={"envFrom": [{"configMapRef": {"name": "site"}}]},
            lifecycle_hooks={"postStart": {"exec": {"command": ["true"]}}},
            container_security_context={"seLinuxOptions": {"level": "s0:c1"}, "seccompProfile": {"type": "Localhost", "localhostProfile": "site.json"}},
        )
    )  # fmt: skip
    spec, metadata = pod["spec"], pod["metadata"]
    assert metadata["name"] == "site-ada"
    assert (metadata["labels"]["site"], metadata["labels"]["app"]) == ("ada", "jupyterhub")
    assert spec["nodeSelector"] == {"kind": "sessions"}
    assert spec["tolerations"][0]["key"] == "sessions"
    assert (spec["priorityClassName"], spec["schedulerName"], spec["dnsPolicy"]) == ("people", "users", "Default")
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["securityContext"] == {"fsGroup": 100, "supplementalGroups": [5000]}
    assert spec["serviceAccountName"] == "ada-account", "it may bring what images are pulled with; its token stays out"
    assert [one["name"] for one in spec["initContainers"]] == ["firewall"]
    assert [one["name"] for one in spec["containers"]] == ["notebook", "sidecar"]
    assert spec["restartPolicy"] == "OnFailure", "the sidecar may have to be started again"
    container = notebook(pod)
    assert container["envFrom"] == [{"configMapRef": {"name": "site"}}]
    assert container["lifecycle"]["postStart"]
    assert container["securityContext"]["seLinuxOptions"] == {"level": "s0:c1"}
    assert container["securityContext"]["seccompProfile"]["localhostProfile"] == "site.json"


@pytest.mark.parametrize(
    ("extra", "policy"), [({}, "Never"), ({"restartPolicy": "Always"}, "Always"), ({"restart_policy": "OnFailure"}, "OnFailure")]
)  # fmt: skip
async def test_a_session_that_ends_is_over_unless_the_admin_says_otherwise(extra: dict[str, str], policy: str) -> None:
    assert (await spawned(spawner_of(**ADMINS, extra_pod_config=extra)))["spec"]["restartPolicy"] == policy


# ordinary servers


@pytest.mark.parametrize(
    ("options", "image", "limit"),
    [({}, "admin/large:1", 16 * GIB), ({"profile": "small"}, "admin/small:1", 2 * GIB)],
    ids=["default profile", "chosen profile"],
)
async def test_without_a_launch_the_pod_is_the_admins(options: dict[str, Any], image: str, limit: int) -> None:
    pod = await spawned(spawner_of(**ADMINS), options)
    assert notebook(pod)["image"] == image
    assert notebook(pod)["resources"]["limits"]["memory"] == limit
    assert pod["spec"]["restartPolicy"] == "OnFailure"
    assert not [name for name in environment(pod) if name.startswith("REPLAY_")]
    assert not [name for name in pod["metadata"]["annotations"] if "replay" in name or "primary_group" in name]
    assert not [name for name in pod["metadata"]["labels"] if "replay" in name]


@pytest.mark.parametrize("settings", [{}, {"profile_list": []}], ids=["profiles", "no profiles"])
@pytest.mark.parametrize("options", [{}, {"launch": LAUNCH, "stored": True}], ids=["plain", "stored options"])
async def test_an_ordinary_server_after_a_launch_is_as_one_before(
    settings: dict[str, Any], options: dict[str, Any]
) -> None:
    admins = ADMINS | {"storage_pvc_ensure": True, "working_dir": "/w", "args": ["--a"], "image_pull_policy": "Always"}
    spawner = spawner_of(**(admins | settings))
    never_launched = await spawned(spawner_of(**(admins | settings)), {})
    await spawned(spawner)
    assert not spawner.storage_pvc_ensure
    if options:
        # JupyterHub brings what is stored, and the request itself names nothing.
        request = SimpleNamespace(method="POST", body=b"")
        spawner.handler = SimpleNamespace(request=request, settings={})  # type: ignore[assignment]
        spawner.user_options = spawner.orm_spawner.user_options
        assert spawner.user_options == {"launch": LAUNCH}
        await spawner._run_apply_user_options(spawner.user_options)
        await spawner.load_user_options()
        after = spawner._plain(await spawner.get_pod_manifest())
    else:
        after = await spawned(spawner, {})
    assert after == never_launched
    assert spawner.storage_pvc_ensure


# names


NAMES = [
    "ada",
    "a" * 64,
    f"{'ada0' * 16}@egi.eu",
    "ÄDA.Lovelace@Example.ORG",
    "阿达",
    "-ada-",
    "a--b",
    "../../etc",
    "{username}",
]


@pytest.mark.parametrize("user", NAMES)
@pytest.mark.parametrize("server_name", ["", "second", "zweiter Server – 第二", "x" * 255])
async def test_long_and_unusual_names_make_valid_pods(user: str, server_name: str) -> None:
    spawner = spawner_of(user=user, server_name=server_name)
    pod = await spawned(spawner)
    name = pod["metadata"]["name"]
    assert len(name) <= 63
    assert all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in name)
    for label, value in pod["metadata"]["labels"].items():
        assert is_valid_label(value), (label, value)
        assert len(value) <= 63
    assert pod["metadata"]["annotations"]["hub.jupyter.org/username"] == user


async def test_no_two_people_or_servers_have_the_same_pod() -> None:
    long = [f"{'ada0' * 16}{end}@egi.eu" for end in "xyz"]
    names = [
        spawner_of(user=user, server_name=server).pod_name for user in [*NAMES, *long] for server in ("", "a", "ä")
    ]
    assert len(set(names)) == len(names)


# a restarted hub


async def test_a_restarted_hub_knows_a_session_by_its_state() -> None:
    spawner = spawner_of()
    spawner.load_state(
        {"pod_name": "jupyter-old", "namespace": "n", "kubespawner_version": "7", "replay_launch": LAUNCH}
    )
    assert (spawner.pod_name, spawner.namespace) == ("jupyter-old", "n")
    assert spawner.get_state()["replay_launch"] == LAUNCH


async def test_a_restarted_hub_takes_a_session_for_ended_whose_start_it_did_not_see_end() -> None:
    spawner = spawner_of()
    spawner.orm_spawner.server = object()
    spawner.orm_spawner.user_options = {"launch": LAUNCH}
    spawner.load_state({"pod_name": "jupyter-ada", "kubespawner_version": "7"})
    assert await spawner.poll() == 1
    assert spawner._may_exist, "its pod is still to be removed"


@pytest.mark.parametrize(
    ("server", "options"), [(None, {"launch": LAUNCH}), (object(), {}), (object(), {"launch": "../x"})]
)
async def test_an_ordinary_server_stays_one(server: object, options: dict[str, Any]) -> None:
    spawner = spawner_of()
    spawner.orm_spawner.server, spawner.orm_spawner.user_options = server, options
    spawner.load_state({"pod_name": "jupyter-ada", "kubespawner_version": "7"})
    assert "replay_launch" not in spawner.get_state()


def test_a_class_of_the_admins_own_goes_beside_it() -> None:
    class Theirs(KubeSpawner):
        pass

    class Mine(Spawner, Theirs):
        pass

    assert Mine.applies_plans
