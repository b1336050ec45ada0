"""How a content comes into a session's pod: what the service says of it, what of that is in the pod, and how it fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tornado import web

from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.content_schemas import CONTENT_AUTHORITIES, CONTENT_VOLUME, ContentModel
from replay_build_service.contents.instructions import SAYS, VARIABLE, ContentInstructions
from replay_build_service.contents.pods import PodContents
from replay_build_service.domain import ResolvedRef
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.schemas import LaunchPlan
from replay_spawner.answers import Started
from replay_spawner.kube.content import refuse_another_content
from replay_spawner.kube.following import Start
from replay_spawner.kube.pods import NotTheLaunch
from replay_spawner.kube.reasons import trouble_of, why_it_died, why_it_ended
from replay_spawner.kube.states import CONTENT, PodEvent, PodState, pod_state
from replay_spawner.kube.telling import Telling
from tests.unit.kube_api import RUNNING, Api, api, asked_spawner, sentence, server, starting, steps
from tests.unit.kube_cases import PLAN, no_cluster, notebook, spawned, spawner_of

__all__ = ["api", "no_cluster"]

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)

GB = 10**9
URL = "https://git.example.org/notes"
NOTES = ResolvedRef(Repository.of_url(URL), RepoSpec("git", URL, "HEAD"), URL, "b" * 40)
SETTINGS = KubernetesBuilderSettings(
    namespace="builds",
    builder_image="registry.example.org/builder@sha256:1",
    site="https://hub.example.org",
    pull_policy="Always",
    outgoing=OutgoingRules(frozenset({"git.example.org"}), ca_file="/etc/of/the/service/ca.crt"),
)


def given(settings: KubernetesBuilderSettings = SETTINGS, content: ResolvedRef = NOTES) -> ContentModel:
    return PodContents(settings, limit=GB, seconds=300).given(content)


def planned(content: ContentModel | None = None, **changes: Any) -> LaunchPlan:
    return PLAN.model_copy(update={"content": content or given(), **changes})


def with_image(**changes: Any) -> LaunchPlan:
    assert PLAN.container is not None
    return planned(container=PLAN.container.model_copy(update=changes))


def fetcher(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in pod["spec"]["initContainers"] if one["name"] == CONTENT]
    return found


def variables(container: dict[str, Any]) -> dict[str, str]:
    """As Kubernetes hands them to the program."""
    return {one["name"]: one["value"].replace("$$", "$") for one in container["env"]}


async def test_what_a_stranger_called_it_is_no_variable_of_the_sessions() -> None:
    odd = "https://git.example.org/$(JUPYTERHUB_API_TOKEN)"
    pod = await spawned(spawner_of(planned(given().model_copy(update={"repository": odd}))))
    told = {one["name"]: one.get("value") for one in notebook(pod)["env"]}
    # Of “$$”, Kubernetes makes “$”.
    assert told["REPLAY_CONTENT_REPOSITORY"] == odd.replace("$", "$$")


# what the service says


async def test_the_service_says_what_is_fetched_by_which_rules_and_into_which_folder() -> None:
    contents = PodContents(SETTINGS, limit=GB, seconds=300)
    await contents.ready(NOTES)
    content = contents.given(NOTES)
    assert (content.name, content.link, content.repository) == ("notes", NOTES.spec.text, NOTES.repository.url)
    assert (content.version, content.folder) == (NOTES.version, None)
    assert content.fetcher is not None
    assert (content.fetcher.image, content.fetcher.pull_policy) == (SETTINGS.builder_image, "Always")
    assert content.fetcher.ca_config_map is None
    told = ContentInstructions.from_json(content.fetcher.environment[VARIABLE])
    assert (told.url, told.version, told.limit, told.seconds) == (URL, NOTES.version, GB, 300)
    assert told.folder == f"{CONTENT_VOLUME}/files"
    rules = OutgoingRules.from_json(told.outgoing_rules)
    assert rules == replace(SETTINGS.outgoing, ca_file=None), "in the pod there is none of the service's files"
    assert content.fetcher.size_limit > 2 * GB, "of a record there are the archive and what is in it at once"


async def test_the_sites_own_authorities_come_into_the_pod() -> None:
    pod = await spawned(spawner_of(planned(given(replace(SETTINGS, ca_config_map="authorities")))))
    told = ContentInstructions.from_json(variables(fetcher(pod))[VARIABLE])
    file = OutgoingRules.from_json(told.outgoing_rules).ca_file
    (mount,) = [one for one in fetcher(pod)["volumeMounts"] if one["mountPath"] == CONTENT_AUTHORITIES]
    (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == mount["name"]]
    assert volume["configMap"]["name"] == "authorities"
    assert file in {f"{mount['mountPath']}/{item['path']}" for item in volume["configMap"]["items"]}
    assert mount["name"] not in {one["name"] for one in notebook(pod)["volumeMounts"]}


# what of that is in the pod


async def test_the_fetcher_runs_before_the_session_as_its_user_with_no_more_than_it_has() -> None:
    admins = {"init_containers": [{"name": "network", "image": "network:1"}]}
    pod = await spawned(spawner_of(planned(), **admins))
    for version in ("1.33", "1.37"):
        kubernetes_validate.validate(pod, version, strict=True)
    own, container = notebook(pod), fetcher(pod)
    assert [one["name"] for one in pod["spec"]["initContainers"]] == ["network", CONTENT]
    assert (container["image"], container["imagePullPolicy"]) == (SETTINGS.builder_image, "Always")
    assert container["command"] == ["python3", "-m", "replay_build_service.contents.fetch"]
    assert container["securityContext"] == {**own["securityContext"], "readOnlyRootFilesystem": True}
    assert (container["securityContext"]["runAsUser"], container["securityContext"]["runAsNonRoot"]) == (1000, True)
    assert container["resources"] == own["resources"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == CONTENT]
    assert volume["emptyDir"] == {"sizeLimit": str(3 * GB)}
    assert container["volumeMounts"] == [{"name": CONTENT, "mountPath": CONTENT_VOLUME}]
    (mount,) = [one for one in own["volumeMounts"] if one["name"] == CONTENT]
    assert mount == {"name": CONTENT, "mountPath": "/home/jovyan/notes", "subPath": "files"}
    told = variables(container)
    for name in ("HOME", "TMPDIR"):
        assert Path(told[name]).is_relative_to(CONTENT_VOLUME)
        assert not Path(told[name]).is_relative_to(f"{CONTENT_VOLUME}/files")
    assert told[SAYS] == container["terminationMessagePath"]
    assert not {name for name in told if name.startswith("JUPYTERHUB")}, "the fetcher has nothing of the session's"


async def test_devices_are_the_sessions_alone() -> None:
    admins = {"extra_resource_limits": {"nvidia.com/gpu": "1", "ephemeral-storage": "10Gi"}}
    pod = await spawned(spawner_of(planned(), **admins))
    assert set(notebook(pod)["resources"]["limits"]) == {"memory", "cpu", "ephemeral-storage", "nvidia.com/gpu"}
    assert set(fetcher(pod)["resources"]["limits"]) == {"memory", "cpu", "ephemeral-storage"}


@pytest.mark.parametrize(
    ("user", "settings", "identity"),
    [
        ("1234:0", {}, {"runAsUser": 1234, "runAsGroup": 0}),
        ("jovyan", {"uid": 5000, "gid": 100, "fs_gid": 7}, {"runAsUser": 5000, "runAsGroup": 100}),
    ],
)
async def test_whoever_the_session_runs_as_owns_the_files(
    user: str, settings: dict[str, Any], identity: dict[str, int]
) -> None:
    context = fetcher(await spawned(spawner_of(with_image(user=user), **settings)))["securityContext"]
    assert {name: value for name, value in context.items() if name in ("runAsUser", "runAsGroup")} == identity


async def test_what_a_link_says_is_no_variable_of_kubernetes() -> None:
    url = "https://git.example.org/$(HOME)"
    pod = await spawned(spawner_of(planned(given(content=replace(NOTES, fetch_url=url)))))
    (value,) = [one["value"] for one in fetcher(pod)["env"] if one["name"] == VARIABLE]
    assert "$$(HOME)" in value
    assert json.loads(variables(fetcher(pod))[VARIABLE])["url"] == url


async def test_an_ordinary_launch_and_an_ordinary_server_have_no_fetcher() -> None:
    for options in (None, {}):
        pod = await spawned(spawner_of(), options)
        assert "initContainers" not in pod["spec"]
        assert CONTENT not in str(pod)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (with_image(top_level=["index.ipynb", "notes"]), "The environment's repository has a “notes” of its own"),
        (with_image(working_dir="", home=None), "This image does not say where its home is"),
        (planned(container=None), "This image does not say where its home is"),
        (planned(given().model_copy(update={"fetcher": None, "folder": "/var/x"})), "cannot bring a second repository"),
    ],
)
async def test_a_session_that_cannot_have_it_is_refused_with_a_sentence(plan: LaunchPlan, said: str) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await spawned(spawner_of(plan))
    assert refused.value.status_code == 422
    assert said in str(refused.value.log_message)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"extra_containers": [{"name": CONTENT, "image": "x"}]}, "containers: replay-content"),
        ({"init_containers": [{"name": CONTENT, "image": "x"}]}, "containers: replay-content"),
        ({"volumes": [{"name": CONTENT, "emptyDir": {}}]}, "volumes: replay-content"),
        (
            {
                "volumes": [{"name": "x", "emptyDir": {}}],
                "volume_mounts": [{"name": "x", "mountPath": "/home/jovyan/notes"}],
            },
            "mounts: /home/jovyan/notes",
        ),
    ],
)
async def test_names_that_are_taken_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(NotTheLaunch, match=said):
        await spawned(spawner_of(planned(), **settings))


@pytest.mark.parametrize("name", ["..", "a/b", "a:b", ""])
async def test_a_folder_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(NotTheLaunch, match="which is none"):
        await spawned(spawner_of(planned(given().model_copy(update={"name": name}))))


async def test_features_leave_the_contents_folder_to_it() -> None:
    plan = with_image(top_level=["index.ipynb"])
    spawner = await spawner_that_prepared(plan)
    assert spawner._context is not None
    assert spawner._context.has == {"index.ipynb", "notes"}


async def spawner_that_prepared(plan: LaunchPlan) -> Any:
    """A spawner whose start got as far as the features, and no further."""
    spawner = spawner_of(plan)
    await spawned(spawner)
    prepare = spawner._prepare_features

    async def only(*arguments: Any) -> None:
        await prepare(*arguments)
        raise KeyError

    spawner._prepare_features = only  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        await spawner._make_and_follow(None)  # type: ignore[arg-type] - never looked at
    return spawner


# what a hook may not make of it


def _with_variable(container: Any, **variable: Any) -> None:
    container["env"] = [*container["env"], variable]


HARMLESS: list[Callable[[Any, Any], object]] = [
    lambda container, _: _with_variable(container, name="HTTPS_PROXY", value="http://proxy:3128"),
    lambda container, _: container["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
    lambda container, _: container.update(imagePullPolicy="Never", resources={}),
    lambda _, session: session.security_context.update(capabilities={"add": ["SYS_PTRACE"]}),
]
HARMFUL: list[tuple[str, Callable[[Any, Any], object]]] = [
    ("image", lambda container, _: container.update(image="another:1")),
    ("command", lambda container, _: container.update(command=["sh"])),
    ("args", lambda container, _: container.update(args=["x"])),
    ("env", lambda container, _: _with_variable(container, name=VARIABLE, value="{}")),
    ("env", lambda container, _: container.update(env=[])),
    ("volumeMounts", lambda container, _: container.update(volumeMounts=[])),
    ("runAsUser", lambda _, session: session.security_context.update(runAsUser=1234)),
    ("runAsNonRoot", lambda container, _: container["securityContext"].update(runAsNonRoot=False)),
    ("privileged", lambda container, _: container["securityContext"].update(privileged=True)),
    ("allowPrivilegeEscalation", lambda container, _: container["securityContext"].pop("allowPrivilegeEscalation")),
    ("the notebook's mount", lambda _, session: setattr(session, "volume_mounts", [])),
]


async def hooked(hook: Callable[[Any, Any], object]) -> None:
    spawner = spawner_of(planned())
    await spawned(spawner)
    pod = await spawner.get_pod_manifest()
    hook(pod.spec.init_containers[0], pod.spec.containers[0])
    refuse_another_content(spawner._plain(pod), planned())


@pytest.mark.parametrize("hook", HARMLESS, ids=range(len(HARMLESS)))
async def test_a_hook_may_add_what_a_site_needs(hook: Callable[[Any, Any], object]) -> None:
    await hooked(hook)


@pytest.mark.parametrize(("what", "hook"), HARMFUL, ids=range(len(HARMFUL)))
async def test_a_hook_that_makes_it_another_content_is_refused(what: str, hook: Callable[[Any, Any], object]) -> None:
    with pytest.raises(NotTheLaunch, match=f"content: {what}"):
        await hooked(hook)


async def test_a_hook_that_takes_the_fetcher_away_is_refused() -> None:
    with pytest.raises(NotTheLaunch, match="0 init containers named replay-content"):
        refuse_another_content(await spawned(spawner_of()), planned())


async def test_a_hook_is_looked_at_before_anything_is_made(api: Api) -> None:
    def hook(spawner: Any, pod: Any) -> Any:
        pod.spec.init_containers = []
        return pod

    async with starting(await asked_spawner(api, plan=planned(), modify_pod_hook=hook), api) as start:
        assert "would make something else of this launch" in await sentence(start)
    assert "create" not in api.seen


# how it fails, and how far it is

STARTED = Started("jupyterhub-singleuser", (), 8888, GB)
GONE = "There is no public repository at git.example.org/notes. It is gone, private or misspelt."


def pending(init: dict[str, Any], phase: str = "Pending", last: dict[str, Any] | None = None, **more: Any) -> PodState:
    """A pod whose fetcher is in this state."""
    statuses = {
        "initContainerStatuses": [{"name": CONTENT, "state": init, "lastState": last or {}}],
        "containerStatuses": [{"name": "notebook", "state": {"waiting": {"reason": "PodInitializing"}}}],
    }
    return pod_state({"metadata": {"uid": "1"}, "status": {"phase": phase, **statuses, **more}})


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (pending(ended(1, GONE), "Failed"), f"The content could not be fetched: {GONE}"),
        # Where the admin's settings have it started again, it is not waited for.
        (pending({"waiting": {"reason": "CrashLoopBackOff"}}, last=ended(1, GONE)), f"could not be fetched: {GONE}"),
        (pending(RUNNING, last=ended(1, GONE)), f"could not be fetched: {GONE}"),
        (pending(ended(1, "\x1b[31mNo\u202e\nway" + "x" * 1500)), "could not be fetched: No  wayx"),
        (pending(ended(137, reason="OOMKilled")), "could not be fetched: to unpack its files takes more memory"),
        (pending(ended(128, "exec: python3: not found", "StartError")), "the machine could not start what fetches it: exec: python3: not found. Tell the admin"),
        (pending(ended(3)), "what fetches it ended with status 3 and did not say why. Open the link again."),
    ],
)  # fmt: skip
def test_why_it_was_not_fetched_is_why_the_session_did_not_start(state: PodState, said: str) -> None:
    assert state.has_ended
    told = why_it_ended(state, STARTED, "of another container", hook_failed=False)
    assert said in told
    assert told.isprintable()
    assert len(told) < 700


def test_what_was_fetched_at_last_is_no_failure() -> None:
    state = pending(ended(0, reason="Completed"), last=ended(1, GONE))
    assert not state.has_ended
    assert trouble_of(state, STARTED, "") is None


def test_a_folder_that_grows_too_large_is_told_of_as_such() -> None:
    full = 'Usage of EmptyDir volume "replay-content" exceeds the limit "3G". '
    state = pending(ended(0), "Failed", reason="Evicted", message=full)
    told = why_it_died(state, None)
    assert told is not None
    assert "The folder of the content has more in it than it may" in told
    trouble = trouble_of(state, STARTED, "")
    assert trouble is not None
    assert trouble.is_final


@pytest.mark.parametrize(
    ("reason", "pull_said", "said", "is_final"),
    [
        ("ErrImagePull", "rpc error: failed to resolve reference: x: not found", "cannot be had: rpc error", True),
        ("ImagePullBackOff", "dial tcp: connect: connection refused", "connection refused. Tell the admin", False),
        ("ErrImageNeverPull", "", "cannot be had: ErrImageNeverPull. Tell the admin", False),
        ("CreateContainerError", "", "adds to sessions, replay-content, does not start: CreateContainerErr", False),
    ],
)
def test_a_fetcher_that_cannot_start_is_for_the_administrators(
    reason: str, pull_said: str, said: str, is_final: bool
) -> None:
    trouble = trouble_of(pending({"waiting": {"reason": reason}}), STARTED, pull_said)
    assert trouble is not None
    assert said in trouble.sentence
    assert trouble.sentence.endswith("Tell the administrators.")
    assert trouble.is_final is is_final


class Told:
    """A start, and what was told of it."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, str]] = []
        self.telling = Telling(lambda percent, message: self.steps.append((percent, message)), "x@sha256:0", {})


def test_each_step_is_told_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("replay_spawner.kube.telling.time.monotonic", lambda: now[0])
    told = Told()
    # Of one that took no time only the events know.
    begun = PodEvent("Started", "Started container replay-content", CONTENT)
    told.telling.look(pending({"waiting": {"reason": "PodInitializing"}}), [PodEvent("Pulling", "", CONTENT)])
    assert told.steps == []
    told.telling.look(pending(RUNNING), [])
    assert not told.telling.is_fetching, "the image is another thing"
    now[0] += 21
    told.telling.look(pending(RUNNING), [begun])
    told.telling.look(pending(ended(0)), [begun, PodEvent("Pulling", "", "notebook")])
    assert told.telling.is_fetching
    assert told.steps == [
        (17, "Fetching the content"),
        (18, "Still fetching the content (21 seconds so far)"),
        (20, "Fetching the image"),
    ]


def test_a_start_whose_time_is_over_meanwhile_says_so() -> None:
    start = Start("x", STARTED, Told().telling, deadline=1, answer_seconds=1, room_seconds=None)
    start.state = pending(RUNNING)
    start.telling.look(start.state, [])
    assert "The content had not come after 60 seconds" in start.too_late(60)


async def test_a_start_ends_with_the_fetchers_words_and_the_pod_goes(api: Api) -> None:
    async with starting(await asked_spawner(api, plan=planned()), api) as start:
        status = {"name": CONTENT, "state": ended(1, GONE)}
        await api.put({"status": {"phase": "Failed", "initContainerStatuses": [status], "containerStatuses": []}})
        assert await sentence(start) == f"The content could not be fetched: {GONE}"
    assert api.pod is None
    assert "log" not in api.seen, "the notebook has said nothing"


async def test_a_start_goes_on_once_it_is_fetched(api: Api) -> None:
    async with server() as port:
        spawner = await asked_spawner(api, port, plan=planned())
        async with starting(spawner, api) as start:
            fetching = {"name": CONTENT, "state": RUNNING}
            await api.put({"status": {"phase": "Pending", "initContainerStatuses": [fetching]}})
            done = {"name": CONTENT, "state": ended(0, reason="Completed")}
            await api.put({"status": {"initContainerStatuses": [done]}})
            await api.becomes(RUNNING, "Running")
            await start
        assert steps(spawner)[-1] == "Waiting for the server"
        assert await spawner.poll() is None
