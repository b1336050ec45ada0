"""Why a session has no server, in sentences for the person: by a pod's state, and by what the cluster answered. Pure."""

import json
import re
from dataclasses import dataclass

import aiohttp
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner import ends, images
from replay_spawner.answers import Started, last_lines, safe, size_of
from replay_spawner.faults import NotStarted, unexplained
from replay_spawner.fetching import PullFault, fault_of, sentence_for
from replay_spawner.kube.pods import NOTEBOOK, NotTheLaunch
from replay_spawner.kube.states import CONTENT, Ended, PodState, Waiting

PULLING_FAILS = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageNeverPull"})

_ADMINS = "Tell the administrators."
_AGAIN = "Open the link again."
_REMOVED = f"The session's pod was removed while it started. {_AGAIN}"

_NUMBER_OF_NODES = re.compile(r"^\d+/\d+ nodes are available: ")
_PREEMPTION = re.compile(r"\s*preemption: .*$", re.DOTALL)
_QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+?), used: (?P<used>.+?), limited: (?P<most>.+)"
)
_LACKS = re.compile(r"Insufficient ([\w./-]*\w)")

_OF_A_MACHINE = (
    (re.compile(r"Too many pods"), "too many sessions on the machines"),
    (re.compile(r"persistentvolumeclaim|PersistentVolumeClaim|volume node affinity|volume binding"), "its storage is not there"),
    (re.compile(r"taint|affinity|selector|unschedulable"), "other machines are not meant for sessions"),
)  # fmt: skip
_RESOURCES = {
    "memory": "memory",
    "cpu": "CPU",
    "ephemeral-storage": "disk",
    "pods": "sessions",
    "count/pods": "sessions",
}


class ClusterSilent(Exception):
    """The cluster's API does not answer, or only that it cannot now; which says nothing about what runs there."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a session from starting."""

    kind: str
    """The same while it is the same trouble, in whatever words."""
    sentence: str
    is_final: bool
    """Whether waiting cannot help. Otherwise it may pass within seconds."""


# of a pod that does not start


def trouble_of(state: PodState, started: Started, pull_said: str) -> Trouble | None:
    """What a pod's state says that does not become a server. ``pull_said`` is the last that was said of a failed pull."""
    if state.disruption is not None or state.is_going or state.phase == "Failed":
        return _ended_by_the_cluster(state)
    if state.waiting is not None:
        return _of_waiting(state.waiting, started, pull_said)
    return None


def why_it_ended(state: PodState, started: Started, log: str, *, hook_failed: bool) -> str:
    """A sentence for a session whose container ended; ``log`` is what it said, ``hook_failed`` of the admin's postStart."""
    if (told := _ended_by_the_cluster(state)) is not None:
        return told.sentence
    ended = state.ended
    if ended is None:
        return (
            f"The cluster ended the session and did not say why. {_AGAIN} If this comes back, tell the administrators."
        )
    if ended.container == CONTENT:
        return _content_failed(ended)
    if ended.container != NOTEBOOK:
        return _part_failed(ended.container, f"it ended with status {ended.exit_code}")
    if hook_failed:
        return (
            "A command that this hub runs at the start of each server (its postStart hook) failed in this image, so the "
            f"session was ended. {_ADMINS}"
        )
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return _cannot_run(ended, started)
    engine = {"ExitCode": ended.exit_code, "OOMKilled": ended.reason == "OOMKilled"}
    return started.why_it_ended(engine, log or ended.message)


def why_it_died(state: PodState, memory_limit: int | None) -> str | None:
    """A sentence for a session that had started and has ended; none where it was shut down from inside. Bytes."""
    told = _ended_by_the_cluster(state)
    if told is not None and told.kind != "removed":
        return ends.of_the_cluster(told.sentence.removesuffix(f" {_AGAIN}"))
    ended = state.ended
    if ended is None or ended.container != NOTEBOOK:
        return ends.vanished("pod")
    # containerd calls it so as well where only another process of the container was killed: the status decides.
    was_out_of_memory = ended.reason == "OOMKilled" and ended.exit_code == ends.KILLED
    if state.is_going and not was_out_of_memory:
        # However its server took that.
        return ends.vanished("pod")
    return ends.by_status(ended.exit_code, was_out_of_memory=was_out_of_memory, limit=memory_limit)


def status_of(state: PodState) -> str:
    """How a session ended, for the hub's log."""
    if state.ended is None:
        return f"{state.phase}: {state.reason}"
    return f"ExitCode={state.ended.exit_code}, {state.ended.reason}"


def no_room(scheduler: str, seconds: float) -> str:
    """A sentence for a session that found no place in that time."""
    return (
        f"There was no room for the session within {seconds:g} seconds: {room_lacks(scheduler)}. Try again when other "
        "sessions have ended; if this comes back, tell the administrators."
    )


def not_made(said: str, seconds: float) -> str:
    """A sentence for a session that its machine could not make in that time; ``said`` are the machine's words."""
    return (
        f"The machine could not make the session within {seconds:g} seconds: {safe(said)}. {_AGAIN} If this comes back, "
        "tell the administrators."
    )


def content_too_late(seconds: float) -> str:
    """A sentence for a session whose content was still on its way when its start had no time left."""
    return (
        f"The content had not come after {seconds:g} seconds, so the session was not started. Try again in a few minutes; if "
        "this comes back, its files are too many for this hub, or their source is too slow."
    )


def removed(state: PodState | None) -> str:
    """A sentence for a pod that is gone; ``state`` was the last that was seen of it."""
    told = None if state is None else _ended_by_the_cluster(state)
    return told.sentence if told is not None else _REMOVED


def room_lacks(scheduler: str) -> str:
    """What the cluster has too little of, by the scheduler's words."""
    # What it says of preemption repeats the same for pods of other priorities.
    text = _PREEMPTION.sub("", _NUMBER_OF_NODES.sub("", scheduler))
    lacks = [f"not enough {_RESOURCES.get(name, name)}" for name in dict.fromkeys(_LACKS.findall(text))]
    found = [*lacks, *(words for pattern, words in _OF_A_MACHINE if pattern.search(text))]
    return ", ".join(found) or safe(text).rstrip(".") or "the cluster does not say why"


def _ended_by_the_cluster(state: PodState) -> Trouble | None:
    """Of a pod that was ended from outside, or never let in by its machine."""
    kind = state.disruption or (state.reason if state.phase == "Failed" else "")
    if kind == "Evicted" and f'"{CONTENT}"' in state.message:
        return Trouble(
            "content",
            "The folder of the content has more in it than it may, so the machine ended the session. Large files are better "
            "kept elsewhere in the session's home.",
            is_final=True,
        )
    if kind == "Evicted" or (kind == "TerminationByKubelet" and "evict" in state.message.lower()):
        lack = "disk" if re.search("ephemeral|storage|disk|inode", state.message, re.IGNORECASE) else "memory"
        if "exceed" in state.message.lower():
            what = f"The session used more {lack} than it may, so its machine ended it."
        else:
            what = f"The machine of this session ran short of {lack} and ended it."
        return Trouble("evicted", f"{what} {_AGAIN}", is_final=True)
    if kind.startswith("OutOf") or kind in ("UnexpectedAdmissionError", "NodeAffinity"):
        return Trouble(
            "not admitted",
            f"The machine that was to run the session had no room for it after all. {_AGAIN}",
            is_final=True,
        )
    if kind in ("Preempting", "PreemptionByScheduler"):
        return Trouble("preempted", f"The session had to make room for something more urgent. {_AGAIN}", is_final=True)
    if kind in ("Terminated", "NodeShutdown", "Shutdown", "TerminationByKubelet", "DeletionByTaintManager", "DeletionByPodGC", "NodeLost", "EvictionByEvictionAPI"):  # fmt: skip
        return Trouble("machine", f"The machine of this session is being taken out of service. {_AGAIN}", is_final=True)
    if kind == "DeadlineExceeded":
        return Trouble("deadline", f"This hub ends servers after a set time, and that of this session is over. {_AGAIN}", is_final=True)  # fmt: skip
    if state.is_going:
        return Trouble("removed", _REMOVED, is_final=True)
    return None


def _of_waiting(waiting: Waiting, started: Started, pull_said: str) -> Trouble:
    if waiting.container == CONTENT and waiting.reason in PULLING_FAILS:
        said = pull_said or waiting.message
        sentence = f"The image that fetches contents cannot be had: {safe(said) or waiting.reason}. {_ADMINS}"
        is_final = fault_of(said) in (PullFault.DAMAGED, PullFault.NOT_ALLOWED)
        return Trouble("content's image", sentence, is_final=is_final)
    if waiting.container != NOTEBOOK:
        said = f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
        return Trouble(f"part {waiting.container}", _part_failed(waiting.container, said), is_final=False)
    match waiting.reason:
        case reason if reason in PULLING_FAILS:
            said = pull_said or waiting.message
            match fault_of(said):
                case PullFault.DAMAGED | PullFault.NOT_ALLOWED as fault:
                    return Trouble(fault.name, sentence_for(said), is_final=True)
                case PullFault.FULL | PullFault.OUT_OF_REACH:
                    # A node that is full may remove other images, a registry may answer again.
                    return Trouble("pull", sentence_for(said), is_final=False)
        case "InvalidImageName":
            return Trouble("name", f"The cluster cannot read the name of this launch's image. {_ADMINS}", is_final=True)
        case "CreateContainerConfigError":
            return _of_configuration(waiting.message)
        case _:
            if (told := started.why_it_cannot_run(waiting.message)) is not None:
                return Trouble("command", told, is_final=True)
            if "unable to find user" in waiting.message or "no matching entries in passwd" in waiting.message:
                return Trouble("user", f"The image has no such user: {safe(waiting.message)}", is_final=True)
            sentence = (
                f"The machine could not make the session's container: {safe(waiting.message or waiting.reason)}. "
                f"{_AGAIN} If this comes back, tell the administrators."
            )
            return Trouble(waiting.reason, sentence, is_final=False)


def _of_configuration(said: str) -> Trouble:
    if "will run as root" in said:
        return Trouble("root", images.ROOT_IMAGE, is_final=True)
    if "non-numeric user" in said:
        return Trouble(
            "named user",
            "The USER of this image is a name, and the cluster runs only images of which it knows that they do not run as "
            "root. The last USER in its Dockerfile must be a number, such as: USER 1000",
            is_final=True,
        )
    # A hook of the admin's may still be making it.
    return Trouble(
        "configuration",
        f"Something that this hub gives to sessions is not there: {safe(said)}. {_ADMINS}",
        is_final=False,
    )


def _cannot_run(ended: Ended, started: Started) -> str:
    return started.why_it_cannot_run(ended.message, ended.exit_code) or (
        f"The machine could not start the session's container: {safe(ended.message)}. {_AGAIN} If this comes back, tell "
        "the administrators."
    )


def _content_failed(ended: Ended) -> str:
    """The fetcher's own sentence, or what is known of how it ended; what it says is made of what strangers' servers say."""
    could_not = "The content could not be fetched"
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return f"{could_not}: the machine could not start what fetches it: {safe(ended.message)}. {_ADMINS}"
    if ended.message.strip():
        return f"{could_not}: {safe(ended.message, 600)}"
    if ended.reason == "OOMKilled" or ended.exit_code == ends.KILLED:
        return f"{could_not}: to unpack its files takes more memory than a session may have here."
    return (
        f"{could_not}: what fetches it ended with status {ended.exit_code} and did not say why. {_AGAIN} If this comes back, "
        "tell the administrators."
    )


def _part_failed(name: str, said: str) -> str:
    return f"A part that this hub adds to sessions, {safe(name, 60)}, does not start: {last_lines(said)}. {_ADMINS}"


# of what the cluster answered


def why_not_started(error: Exception, launch: str, cluster_said: str) -> NotStarted:
    """For whatever was raised while the pod was made; ``cluster_said`` is what the API last failed with, if it did."""
    match error:
        case NotTheLaunch():
            return NotStarted(
                "This hub's configuration would make something else of this launch than its own session, so nothing was "
                f"started. {_ADMINS}",
                str(error),
            )
        case ApiException() if not is_silence(error):
            return NotStarted(refused_by_the_cluster(error), f"the cluster refused: {said_by(error)}")
        case ApiException() | ClusterSilent() | aiohttp.ClientError() | OSError():
            return NotStarted(
                "The cluster does not answer, so the session cannot start. Try again in a few minutes.",
                cluster_said or repr(error),
            )
        case _:
            return unexplained(error, launch)


def is_silence(error: ApiException) -> bool:
    """Whether an answer only says that the API cannot answer now."""
    return error.status in (None, 0, 408, 429) or error.status >= 500


def said_by(error: ApiException) -> str:
    """The API's own words."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"


def refused_by_the_cluster(error: ApiException) -> str:
    """A sentence for an answer of the API's that is a refusal."""
    said = said_by(error)
    if found := _QUOTA.search(said):
        return (
            f"This hub has no room for another session now ({_of_quota(found['used'], found['most'])}). Try again when "
            "other sessions have ended."
        )
    if error.status in (401, 403) and "admission" not in said and re.search(r"cannot \w+ resource|Unauthorized", said):
        return f"The cluster does not let this hub start sessions. {_ADMINS}"
    return f"The cluster refused the session: {safe(said)}. {_ADMINS}"


def _of_quota(used: str, most: str) -> str:
    """What is used of what there is, resource by resource."""
    have, limits = _by_name(used), _by_name(most)
    told = [
        f"{_RESOURCES.get(name.removeprefix('requests.').removeprefix('limits.'), safe(name, 60))}: "
        f"{_quantity(have.get(name, '?'))} of {_quantity(limit)} used"
        for name, limit in limits.items()
    ]
    return "; ".join(told)


def _by_name(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): value.strip() for name, _, value in parts}


def _quantity(text: str) -> str:
    """A number of the API's; bytes as people write them."""
    return size_of(int(text)) if text.isdecimal() and len(text) > 6 else safe(text, 30)
