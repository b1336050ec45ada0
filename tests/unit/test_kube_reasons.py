"""What a person is told of a pod: by its status, by its events, by what the API answers."""

import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.answers import Started
from replay_spawner.kube import reasons
from replay_spawner.kube.following import Start
from replay_spawner.kube.pods import NotTheLaunch
from replay_spawner.kube.reasons import ClusterSilent, room_lacks, trouble_of, why_it_ended, why_not_started
from replay_spawner.kube.states import Fetched, PodEvent, PodState, events_of, failed_pull, fetched, pod_state
from replay_spawner.kube.telling import Telling
from replay_spawner.plans import LAUNCH_LABEL

LAUNCH = "0123456789abcdef" * 2
GIB = 1024**3
STARTED = Started("jupyterhub-singleuser", ("/entry",), 8888, 4 * GIB)
LOCATION = "registry.example.org/x@sha256:" + "ab" * 32


def pod(status: dict[str, Any] | None = None, *, spec: dict[str, Any] | None = None, **metadata: Any) -> PodState:
    own = {"name": "jupyter-ada", "uid": "1", "labels": {LAUNCH_LABEL: LAUNCH}}
    return pod_state({"metadata": own | metadata, "spec": spec or {}, "status": status or {"phase": "Pending"}})


def container(state: dict[str, Any], name: str = "notebook", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state} | more


def waiting(reason: str, message: str = "", name: str = "notebook") -> PodState:
    return pod(
        {
            "phase": "Pending",
            "containerStatuses": [container({"waiting": {"reason": reason, "message": message}}, name)],
        }
    )


def ended(code: int, reason: str = "Error", message: str = "", phase: str = "Failed", **more: Any) -> PodState:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return pod({"phase": phase, "containerStatuses": [container(state, **more)]})


# what keeps a session from starting

KUBELET = 'rpc error: code = Unknown desc = failed to pull and unpack image "r/x@sha256:0": '
RESOLVE = KUBELET + 'failed to resolve reference "r/x@sha256:0": '
DAMAGED, NOT_GIVEN, FULL, LATER = "damaged or gone", "does not give", "disk of the machine", "could not be fetched"


@pytest.mark.parametrize(
    ("state", "said", "is_final"),
    [
        # containerd's words, by a kubelet
        (waiting("ErrImagePull", RESOLVE + "r/x@sha256:0: not found"), DAMAGED, True),
        (waiting("ErrImagePull", KUBELET + "failed to copy: httpReadSeeker: failed open: content at http://r/v2/x/blobs/sha256:0 not found: not found"), DAMAGED, True),
        (waiting("ErrImagePull", KUBELET + 'failed commit on ref "layer": unexpected commit digest sha256:1, expected sha256:0: failed precondition'), DAMAGED, True),
        (waiting("ErrImagePull", RESOLVE + "unexpected status code [manifests sha256:0]: 401 Unauthorized"), NOT_GIVEN, True),
        (waiting("ErrImagePull", RESOLVE + "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope"), NOT_GIVEN, True),
        (waiting("ErrImagePull", RESOLVE + "unexpected status code [manifests sha256:0]: 503 Service Unavailable"), LATER, False),
        (waiting("ErrImagePull", RESOLVE + 'failed to do request: Head "http://r/v2": dial tcp 10.0.0.1:5000: connect: connection refused'), LATER, False),
        (waiting("ErrImagePull", RESOLVE + 'failed to do request: Head "https://r/v2": dial tcp: lookup r: no such host'), LATER, False),
        (waiting("ErrImagePull", KUBELET + "write /x: no space left on device"), FULL, False),
        (waiting("ImagePullBackOff", 'Back-off pulling image "r/x"'), LATER, False),
        (waiting("ImagePullBackOff", 'Back-off pulling image "r/x": ErrImagePull: ' + RESOLVE + "r/x@sha256:0: not found"), DAMAGED, True),
        (waiting("InvalidImageName", "couldn't parse image reference"), "cannot read the name", True),
        (waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: …)"), "runs as root", True),
        (waiting("CreateContainerConfigError", "container has runAsNonRoot and image has non-numeric user (jovyan), cannot verify user is non-root"), "must be a number, such as: USER 1000", True),
        (waiting("CreateContainerConfigError", 'secret "x" not found'), 'is not there: secret "x" not found. Tell the admin', False),
        (waiting("CreateContainerError", "failed to create containerd container: unable to find user nosuch: no matching entries in passwd file"), "has no such user", True),
        (waiting("CreateContainerError", "context deadline exceeded"), "could not make the session's container: context deadline", False),
        (waiting("RunContainerError", 'exec: "jupyterhub-singleuser": executable file not found in $PATH'), "has no jupyterhub-singleuser", True),
        (waiting("CrashLoopBackOff", "back-off 10s", "sidecar"), "A part that this hub adds to sessions, sidecar, does not start: CrashLoopBackOff", False),
        (waiting("ErrImagePull", RESOLVE + "x: not found", "sidecar"), "adds to sessions, sidecar", False),
        (pod({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. Container notebook was using 3Gi."}), "ran short of memory", True),
        (pod({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage. "}), "ran short of disk", True),
        (pod({"phase": "Failed", "reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi."}), "used more disk than it may", True),
        (pod({"phase": "Failed", "reason": "OutOfmemory", "message": "Node didn't have enough resource: memory"}), "had no room for it after all", True),
        (pod({"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."}), "taken out of service", True),
        (pod({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}), "something more urgent", True),
        (pod({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]}), "taken out of service", True),
        (pod({"phase": "Failed", "reason": "DeadlineExceeded", "message": "x"}), "ends servers after a set time", True),
        (pod(deletionTimestamp="2026-11-24T00:00:00Z"), "was removed while it started", True),
    ],
)  # fmt: skip
def test_what_keeps_a_session_from_starting_is_told(state: PodState, said: str, is_final: bool) -> None:
    trouble = trouble_of(state, STARTED, "")
    assert trouble is not None
    assert said in trouble.sentence
    assert trouble.sentence.endswith((".", "USER 1000")) or "no such user" in trouble.sentence
    assert trouble.is_final is is_final


def test_why_a_pull_failed_is_remembered_while_the_node_waits_to_try_again() -> None:
    state = waiting("ImagePullBackOff", 'Back-off pulling image "r/x"')
    trouble = trouble_of(state, STARTED, RESOLVE + "r/x@sha256:0: not found")
    assert trouble is not None
    assert DAMAGED in trouble.sentence


@pytest.mark.parametrize(
    "state",
    [
        pod(),
        pod({}),
        waiting("ContainerCreating"),
        waiting("PodInitializing"),
        waiting(""),
        pod({"phase": "Running", "containerStatuses": [container({"running": {}})]}),
        pod({"phase": "Pending", "conditions": [{"type": "DisruptionTarget", "status": "False", "reason": "x"}]}),
        # A mere beginning of another container hides no trouble of the notebook's, and is none itself.
        waiting("ContainerCreating", name="sidecar"),
    ],
)
def test_a_beginning_is_no_trouble(state: PodState) -> None:
    assert trouble_of(state, STARTED, "") is None
    assert not state.has_ended


# how a session ended


@pytest.mark.parametrize(
    ("state", "log", "said"),
    [
        (ended(137, "OOMKilled"), "", "ran out of memory while it started, so it was ended. It may have at most 4 GB."),
        # Where only a child was killed, or the engine does not tell.
        (ended(137, "Error"), "", "ran out of memory"),
        (ended(1, "OOMKilled"), "", "ran out of memory"),
        (ended(3), "ValueError: broken", "ended at once, with status 3: ValueError: broken"),
        (ended(0, "Completed", phase="Succeeded"), "bye", "ended at once. The image's ENTRYPOINT, /entry, must run the command"),
        (ended(127), "/entry: 2: exec: jupyterhub-singleuser: not found", "has no jupyterhub-singleuser"),
        (ended(128, "StartError", 'failed to create containerd task: … exec: "jupyterhub-singleuser": executable file not found in $PATH: unknown'), "", "has no jupyterhub-singleuser"),
        (ended(128, "StartError", 'exec: "/not-there.sh": stat /not-there.sh: no such file or directory: unknown'), "", "could not start the session's container: exec: "),
        (ended(1, "Error", "the last words", phase="Running"), "", "with status 1: the last words"),
        (ended(1, name="firewall"), "", "adds to sessions, firewall, does not start: it ended with status 1"),
        (pod({"phase": "Failed", "reason": "Evicted", "message": "low on resource: memory"}), "x", "ran short of memory"),
        (pod({"phase": "Failed"}), "", "did not say why"),
    ],
)  # fmt: skip
def test_how_a_session_ended_is_told(state: PodState, log: str, said: str) -> None:
    assert state.has_ended
    assert said in why_it_ended(state, STARTED, log, hook_failed=False)


def test_a_hook_of_the_admins_that_fails_is_no_lack_of_memory() -> None:
    """The node kills the container for it, as the kernel does."""
    assert "postStart hook) failed" in why_it_ended(ended(137), STARTED, "", hook_failed=True)


def test_a_container_that_was_started_anew_is_another_session() -> None:
    again = pod({"phase": "Running", "containerStatuses": [container({"running": {}}, lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})]})  # fmt: skip
    assert again.has_ended
    assert again.ended is not None
    assert again.ended.runs_again
    assert reasons.status_of(again) == "ExitCode=137, OOMKilled"
    other = pod({"phase": "Running", "containerStatuses": [container({"running": {}}), container({"running": {}}, "sidecar", lastState={"terminated": {"exitCode": 1}})]})  # fmt: skip
    assert not other.has_ended
    # What an init container did before is done.
    begun = pod({"phase": "Pending", "initContainerStatuses": [container({"terminated": {"exitCode": 0}}, "init")]})
    assert not begun.has_ended


# room


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("0/1 nodes are available: 1 Insufficient memory.", "not enough memory"),
        ("0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.", "not enough CPU, not enough memory"),
        ("0/2 nodes are available: 1 Too many pods, 1 node(s) had taint {node-role.kubernetes.io/master: }, that the pod didn't tolerate.", "too many sessions on the machines, other machines are not meant for sessions"),
        ("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "not enough nvidia.com/gpu"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "other machines are not meant for sessions"),
        ('persistentvolumeclaim "claim-ada" not found', "its storage is not there"),
        ("0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims.", "its storage is not there"),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
        ("", "the cluster does not say why"),
    ],
)  # fmt: skip
def test_what_there_is_too_little_of_is_told(scheduler: str, said: str) -> None:
    assert room_lacks(scheduler) == said
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": scheduler}
    state = pod({"phase": "Pending", "conditions": [condition]})
    assert (state.is_scheduled, state.unschedulable) == (False, scheduler)


def test_a_pod_with_a_machine_has_room() -> None:
    assert pod({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}).is_scheduled
    assert pod(spec={"nodeName": "node1"}).is_scheduled


# what the API answers


def refused(status: int, message: str) -> ApiException:
    error = ApiException(status, "Reason")
    error.body = json.dumps({"kind": "Status", "message": message})
    return error


QUOTA = 'pods "jupyter-ada" is forbidden: exceeded quota: sessions, requested: pods=1,requests.memory=2147483648, used: pods=2,requests.memory=4Gi, limited: pods=2,requests.memory=4294967296'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(403, QUOTA), "no room for another session now (sessions: 2 of 2 used; memory: 4Gi of 4 GB used). Try again when"),
        (refused(403, 'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi'), "The cluster refused the session: pods"),
        (refused(403, 'pods is forbidden: User "hub" cannot create resource "pods" in API group "" in the namespace "x"'), "does not let this hub start sessions"),
        (refused(401, "Unauthorized"), "does not let this hub start sessions"),
        (refused(403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": \x1b[1mseccompProfile'), "refused the session: pods"),
        (refused(400, 'admission webhook "policy" denied the request: \u202eno'), "refused the session: admission webhook"),
        (refused(422, 'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value'), "refused the session"),
        (refused(404, 'namespaces "x" not found'), 'refused the session: namespaces "x" not found'),
        (refused(500, "etcdserver: request timed out"), "The cluster does not answer"),
        (refused(429, "Too Many Requests"), "The cluster does not answer"),
        (ClusterSilent("x"), "The cluster does not answer"),
        (aiohttp.ClientConnectionError("x"), "The cluster does not answer"),
        (TimeoutError("Could not create pod"), "The cluster does not answer"),
        (NotTheLaunch("x"), "would make something else of this launch"),
        (ValueError("x"), f"tell the administrators the launch's number, {LAUNCH}."),
    ],
)  # fmt: skip
def test_what_the_api_answers_is_told(error: Exception, said: str) -> None:
    told = why_not_started(error, LAUNCH, "")
    assert said in told.sentence
    assert told.sentence.endswith(".")
    assert told.sentence.isprintable()
    assert told.is_unexpected is isinstance(error, ValueError)


def test_what_the_api_last_failed_with_is_in_the_log() -> None:
    assert why_not_started(TimeoutError("Could not create"), LAUNCH, "etcd is full").detail == "etcd is full"


@given(st.text(max_size=500), st.sampled_from(["ErrImagePull", "CreateContainerConfigError", "RunContainerError", "x"]))
def test_whatever_a_node_says_the_person_gets_one_short_line(text: str, reason: str) -> None:
    trouble = trouble_of(waiting(reason, text), STARTED, "")
    assert trouble is not None
    assert trouble.sentence.isprintable()
    assert len(trouble.sentence) < 1000


# events


def event(reason: str, message: str, *, uid: str = "1", at: str = "", field: str = "notebook", name: str = "e") -> dict[str, Any]:  # fmt: skip
    about = {
        "kind": "Pod",
        "uid": uid,
        "name": "jupyter-ada",
        "fieldPath": f"spec.containers{{{field}}}" if field else "",
    }
    return {"metadata": {"name": name}, "reason": reason, "message": message, "lastTimestamp": at or None, "eventTime": None, "involvedObject": about}  # fmt: skip


def test_events_of_an_earlier_pod_of_the_same_name_are_not_this_ones() -> None:
    told = events_of(
        "2",
        [
            event("Started", "later", uid="2", at="2026-11-24T00:00:02Z"),
            event("Failed", "earlier", uid="1", at="2026-11-24T00:00:01Z"),
            event("Scheduled", "first", uid="2", field=""),
            {"metadata": {"name": "x"}},
        ],
    )
    assert told == [PodEvent("Scheduled", "first", ""), PodEvent("Started", "later", "notebook")]


@pytest.mark.parametrize(
    ("message", "known"),
    [
        ('Successfully pulled image "r/x@sha256:0" in 1.5s', Fetched(1.5, None)),
        ('Successfully pulled image "r/x" in 812.5ms (1m2s including waiting)', Fetched(0.8125, None)),
        ('Successfully pulled image "r/x" in 1m12.5s (1m13s including waiting). Image size: 3221225472 bytes.', Fetched(72.5, 3 * GIB)),
        ('Successfully pulled image "r/x" in 1h0m1s', Fetched(3601, None)),
        ('Container image "r/x" already present on machine', None),
    ],
)  # fmt: skip
def test_how_long_a_fetch_took_is_read(message: str, known: Fetched | None) -> None:
    assert fetched(PodEvent("Pulled", message, "notebook")) == known


def test_why_a_fetch_failed_is_read() -> None:
    assert failed_pull(PodEvent("Failed", 'Failed to pull image "r/x": rpc error:\nx: not found', "notebook")) == (
        "rpc error:\nx: not found"
    )
    assert failed_pull(PodEvent("Failed", "Error: ErrImagePull", "notebook")) is None


# how far it is


class Told:
    """A start, and what was told of it."""

    def __init__(self, known: dict[str, Fetched] | None = None) -> None:
        self.known = known if known is not None else {}
        self.steps: list[tuple[int, str]] = []
        self.telling = Telling(lambda percent, message: self.steps.append((percent, message)), LOCATION, self.known)

    def look(self, state: PodState, *events: tuple[str, str]) -> list[str]:
        """What is new."""
        before = len(self.steps)
        self.telling.look(state, [PodEvent(reason, message, "notebook") for reason, message in events])
        return [message for _, message in self.steps[before:]]


PLACED = pod({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]})
RUNNING = pod({"phase": "Running", "containerStatuses": [container({"running": {}})]}, spec={"nodeName": "n"})


def unplaced(scheduler: str) -> PodState:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": scheduler}
    return pod({"phase": "Pending", "conditions": [condition]})


def test_each_step_is_told_once_in_words() -> None:
    told = Told()
    pulled = ("Pulled", 'Successfully pulled image "x" in 40s. Image size: 1610612736 bytes.')
    assert told.look(pod()) == []
    assert told.look(unplaced("0/1 nodes are available: 1 Insufficient memory.")) == [
        "There is no room for the session yet: not enough memory. Waiting for it"
    ]
    assert told.look(unplaced("0/2 nodes are available: 2 Insufficient memory."), ("TriggeredScaleUp", "x")) == [
        "The cluster adds a machine for this session, which takes a few minutes"
    ]
    assert told.look(PLACED) == ["There is room for the session now"]
    assert told.look(PLACED, ("Pulling", "")) == ["Fetching the image"]
    assert told.telling.is_fetching
    assert told.look(PLACED, ("Pulling", ""), pulled, ("Created", "")) == ["Starting the container"]
    assert not told.telling.is_fetching
    assert told.look(RUNNING, ("Pulling", ""), pulled, ("Created", ""), ("Started", "")) == ["Waiting for the server"]
    assert told.look(RUNNING, pulled) == []
    assert told.known == {LOCATION: Fetched(40, 1610612736)}


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (Fetched(40, 1610612736), "Fetching the image (1.5 GB; it took 40 seconds the last time)"),
        (Fetched(0.2, None), "Fetching the image (it took 1 second the last time)"),
        (Fetched(600, None), "Fetching the image (it took 10 minutes the last time)"),
    ],
)
def test_what_earlier_fetches_took_is_told(known: Fetched, said: str) -> None:
    assert Told({LOCATION: known}).look(PLACED, ("Pulling", "")) == [said]


def test_an_image_that_is_there_is_not_fetched() -> None:
    told = Told()
    here = ("Pulled", 'Container image "x" already present on machine')
    assert told.look(RUNNING, here, ("Created", ""), ("Started", "")) == [
        "Starting the container",
        "Waiting for the server",
    ]
    assert told.known == {}


def test_a_long_fetch_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("replay_spawner.kube.telling.time.monotonic", lambda: now[0])
    told = Told()
    told.look(PLACED, ("Pulling", ""))
    now[0] += 19
    assert told.look(PLACED) == []
    now[0] += 2
    assert told.look(PLACED) == ["Still fetching the image (21 seconds so far)"]
    assert told.look(PLACED) == []


def test_what_other_containers_fetch_is_not_told() -> None:
    told = Told()
    told.telling.look(PLACED, [PodEvent("Pulling", "", "sidecar")])
    assert told.steps == []


# no time left


def start(state: PodState | None, *events: tuple[str, str]) -> Start:
    telling = Telling(lambda percent, message: None, LOCATION, {})
    found = [PodEvent(reason, message, "") for reason, message in events]
    if state is not None:
        telling.look(state, found)
    return Start(LAUNCH, STARTED, telling, 0, 30, None, state=state, events=found)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (start(None), "was not ready after 57 seconds. Try again"),
        (start(unplaced("0/1 nodes are available: 1 Insufficient cpu.")), "There was no room for the session within 57 seconds: not enough CPU."),
        (start(PLACED, ("Pulling", "")), "The image is not here yet after 57 seconds."),
        (start(PLACED, ("FailedMount", 'secret "x" not found')), 'could not make the session within 57 seconds: secret "x" not found.'),
        (start(PLACED), "was not ready after 57 seconds."),
    ],
)  # fmt: skip
def test_what_a_start_lacked_is_told_when_its_time_is_over(tried: Start, said: str) -> None:
    assert said in tried.too_late(57.0)
