"""What a content adds to a session's pod: a volume, and an init container that fetches the files into it. Pure.

The fetcher runs as the session's own user, with no more rights and no more of anything than the session has, and ends before
that begins; so the files are the session's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from replay_build_service.content_schemas import CONTENT_AUTHORITIES, CONTENT_VOLUME, FetcherModel
from replay_build_service.schemas import LaunchPlan
from replay_spawner import images
from replay_spawner.kube.pods import NOTEBOOK, Manifest, NotTheLaunch, Plain, literal
from replay_spawner.kube.states import CONTENT

AUTHORITIES = f"{CONTENT}-authorities"
"""Of the volume with certificates."""

FILES = "files"
"""Where the fetcher leaves the files, in the volume."""

_SAYS = "/dev/termination-log"

_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,255}")

_WHAT_FILES_NEED = frozenset({"memory", "cpu", "ephemeral-storage"})

NO_HOME = (
    "This image does not say where its home is, so there is no place for the files of a second repository. Its Dockerfile can "
    "say it, such as: ENV HOME=/home/jovyan"
)

_OUTSIDE_THE_IMAGE = {"HOME": CONTENT_VOLUME, "TMPDIR": CONTENT_VOLUME}
"""Nothing else can be written; the fetcher makes itself a folder in it."""


def add_content(pod: Manifest, plan: LaunchPlan, plain: Plain) -> None:
    """Add to a session's pod what brings the plan's content, if there is one, into a home that is known.

    After all else: the fetcher has the notebook's own security and resources. Raises `NotTheLaunch`.
    """
    fetcher = _fetcher_of(plan)
    if fetcher is None:
        return
    spec = pod.spec
    notebook = next(one for one in spec.containers if plain(one)["name"] == NOTEBOOK)
    mount = _mount(plan)
    volumes = _volumes(fetcher)
    containers = [*spec.containers, *(spec.init_containers or [])]
    _refuse_taken("containers", [CONTENT], [plain(one)["name"] for one in containers])
    _refuse_taken("volumes", [one["name"] for one in volumes], [plain(one)["name"] for one in spec.volumes or []])
    _refuse_taken("mounts", [mount["mountPath"]], [plain(one)["mountPath"] for one in notebook.volume_mounts or []])
    notebook.volume_mounts = [*(notebook.volume_mounts or []), mount]
    spec.volumes = [*(spec.volumes or []), *volumes]
    # The last one: the admin's may have to make the network first, or narrow it.
    spec.init_containers = [*(spec.init_containers or []), _container(fetcher, plain(notebook))]


def refuse_another_content(pod: Mapping[str, Any], plan: LaunchPlan) -> None:
    """Raise `NotTheLaunch` where a pod, in the API's spelling, does not bring the plan's content any more."""
    fetcher = _fetcher_of(plan)
    if fetcher is None:
        return
    spec: Mapping[str, Any] = pod.get("spec") or {}
    found = [one for one in spec.get("initContainers") or [] if one.get("name") == CONTENT]
    notebooks = [one for one in spec.get("containers") or [] if one.get("name") == NOTEBOOK]
    if len(found) != 1 or len(notebooks) != 1:
        raise NotTheLaunch(f"The pod has {len(found)} init containers named {CONTENT}.")
    planned = _container(fetcher, notebooks[0])
    given: Mapping[str, Any] = found[0]
    # A hook may add to it what its network needs: variables, certificates.
    variables = {one["name"]: one.get("value") for one in given.get("env") or []}
    own: Mapping[str, Any] = given.get("securityContext") or {}
    sessions: Mapping[str, Any] = notebooks[0].get("securityContext") or {}
    unlike = {
        **{name: given.get(name) == planned[name] for name in ("image", "command")},
        "args": not given.get("args"),
        # Files belong to whoever fetched them.
        "runAsUser": own.get("runAsUser") == sessions.get("runAsUser"),
        "runAsNonRoot": own.get("runAsNonRoot") is True,
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "env": all(variables.get(one["name"]) == one["value"] for one in planned["env"]),
        "volumeMounts": all(one in (given.get("volumeMounts") or []) for one in planned["volumeMounts"]),
        "the notebook's mount": _mount(plan) in (notebooks[0].get("volumeMounts") or []),
    }
    if changed := [name for name, is_as_planned in unlike.items() if not is_as_planned]:
        raise NotTheLaunch(f"modify_pod_hook changes of what fetches a launch's content: {', '.join(changed)}.")


def _fetcher_of(plan: LaunchPlan) -> FetcherModel | None:
    return None if plan.content is None else plan.content.fetcher


def _mount(plan: LaunchPlan) -> dict[str, Any]:
    name = plan.content.name if plan.content else ""
    if not _NAME.fullmatch(name):
        raise NotTheLaunch(f"The content of a plan is to be in a folder of this name, which is none: {name!r}.")
    return {"name": CONTENT, "mountPath": f"{images.home_of(plan.container)}/{name}", "subPath": FILES}


def _volumes(fetcher: FetcherModel) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": CONTENT, "emptyDir": {"sizeLimit": str(fetcher.size_limit)}}]
    if fetcher.ca_config_map is not None:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        volumes.append({"name": AUTHORITIES, "configMap": {"name": fetcher.ca_config_map, "items": items}})
    return volumes


def _container(fetcher: FetcherModel, notebook: Mapping[str, Any]) -> dict[str, Any]:
    variables = _OUTSIDE_THE_IMAGE | fetcher.environment | {"REPLAY_CONTENT_SAYS": _SAYS}
    mounts: list[dict[str, Any]] = [{"name": CONTENT, "mountPath": CONTENT_VOLUME}]
    if fetcher.ca_config_map is not None:
        mounts.append({"name": AUTHORITIES, "mountPath": CONTENT_AUTHORITIES, "readOnly": True})
    return {
        "name": CONTENT,
        "image": fetcher.image,
        "imagePullPolicy": fetcher.pull_policy,
        "command": [literal(word) for word in fetcher.command],
        "workingDir": CONTENT_VOLUME,
        "env": [{"name": name, "value": literal(value)} for name, value in variables.items()],
        "resources": _resources(notebook.get("resources") or {}),
        "securityContext": {**(notebook.get("securityContext") or {}), "readOnlyRootFilesystem": True},
        "terminationMessagePath": _SAYS,
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }


def _resources(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The session's own, but for its devices.

    A pod needs what its containers need, or the most that an init container needs, whichever is more. As much as the session
    has is no more of anything: no quota, no machine's room and no class of service differs for it. And git may hold a large
    file in memory as a whole.
    """
    return {
        kind: {name: value for name, value in (notebook.get(kind) or {}).items() if name in _WHAT_FILES_NEED}
        for kind in ("requests", "limits")
    }


def _refuse_taken(what: str, new: Sequence[str], there: Sequence[str]) -> None:
    if taken := sorted(set(new) & set(there)):
        raise NotTheLaunch(
            f"The content of a launch and this hub's other settings use the same names of {what}: {', '.join(taken)}."
        )
