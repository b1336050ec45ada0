"""What a session's pod is made of: KubeSpawner's manifest with all of the admin's settings, and over it the plan.

Pure: nothing here asks the cluster. KubeSpawner's manifests are half models and half dictionaries in the API's own
spelling, so whatever is read of them is first brought into that spelling.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kubernetes_asyncio.client import V1Container, V1ResourceRequirements

from replay_build_service.schemas import ImageModel, LaunchPlan, PlacementModel, ResourcesModel
from replay_spawner import images
from replay_spawner.plans import GROUP, LAUNCH_LABEL, label_value, marks

NOTEBOOK = "notebook"
"""KubeSpawner's name for a server's container; accounting goes by it, too."""

NAMED_USER = 1000
"""Whom an image runs as whose ``USER`` is a name, where the admin sets no ``uid``: Kubernetes looks up no names, and this
is the account of the images that repo2docker makes and BinderHub asks for."""

_OF_NOBODY = frozenset({"configMap", "emptyDir", "downwardAPI", "ephemeral", "image"})
"""Kinds of volumes that hold nothing of the person's, of other people's or of the cluster's secrets."""

_PROJECTED_OF_NOBODY = frozenset({"configMap", "downwardAPI", "clusterTrustBundle"})

_KEPT_SECURITY = ("seLinuxOptions", "appArmorProfile", "readOnlyRootFilesystem", "windowsOptions")
"""Of the admin's security context: what narrows a session or names the site's own profiles."""

Manifest = Any
"""A `V1Pod` or a `V1Container`, whose types do not say that parts of it are none or dictionaries."""

Plain = Callable[[Any], Any]
"""Brings models, and whatever holds them, into the API's spelling."""


class NotTheLaunch(Exception):
    """A hook has made something else of the pod than the launch's session. The text is for the administrators."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the admin says of sessions."""

    kept_volumes: Sequence[str] = ()
    """Patterns for names of volumes that sessions get, whatever these hold."""
    restart_policy: str | None = None
    """Where the admin has said one."""
    hubs_certificates: bool = False
    """Whether KubeSpawner adds the certificates of the hub's internal encryption."""


def make_session(pod: Manifest, plan: LaunchPlan, settings: SessionSettings, plain: Plain) -> None:
    """Turn the manifest of the admin's ordinary server into that of a launch's session. Raises `NotTheLaunch`."""
    notebook: Manifest = _notebook(pod)
    spec, metadata = pod.spec, pod.metadata
    metadata.labels = {**(metadata.labels or {}), LAUNCH_LABEL: plan.launch, GROUP: label_value(plan.vo)}
    metadata.annotations = {**(metadata.annotations or {}), **marks(plan)}
    notebook.image, notebook.image_pull_policy = plan.location, "IfNotPresent"
    # The image's own entrypoint runs the plan's command, in the image's own folder.
    notebook.command, notebook.args, notebook.working_dir = None, arguments(plan), None
    notebook.resources = _resources(plain(notebook.resources) or {}, plan.resources)
    notebook.security_context = _security(
        plan.container, plain(notebook.security_context) or {}, plain(spec.security_context) or {}
    )
    notebook.env = [one for one in notebook.env or [] if "secretKeyRef" not in (plain(one).get("valueFrom") or {})]
    notebook.env_from = [one for one in notebook.env_from or [] if "secretRef" not in plain(one)] or None
    notebook.volume_devices = None
    _withhold_volumes(pod, notebook, settings, plain)
    _place(spec, plan.placement, plain)
    spec.automount_service_account_token = False
    spec.host_network = spec.host_pid = spec.host_ipc = spec.share_process_namespace = None
    if spec.enable_service_links is None:
        spec.enable_service_links = False
    # What a session made is in its container: one that is started anew would be another session. Others may have to be.
    alone = len(spec.containers) == 1
    spec.restart_policy = settings.restart_policy or ("Never" if alone else spec.restart_policy)


def refuse_another(pod: Mapping[str, Any], plan: LaunchPlan, name: str) -> None:
    """Raise `NotTheLaunch` where a pod, in the API's spelling, is not this launch's session any more."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    found = [one for one in spec.get("containers") or [] if one.get("name") == NOTEBOOK]
    if len(found) != 1:
        raise NotTheLaunch(f"The pod has {len(found)} containers named {NOTEBOOK}.")
    notebook: Mapping[str, Any] = found[0]
    own: Mapping[str, Any] = notebook.get("securityContext") or {}
    user = own.get("runAsUser", (spec.get("securityContext") or {}).get("runAsUser"))
    unlike = {
        "metadata.name": metadata.get("name") == name,
        f"the label {LAUNCH_LABEL}": (metadata.get("labels") or {}).get(LAUNCH_LABEL) == plan.launch,
        "the image": notebook.get("image") == plan.location,
        "command": not notebook.get("command"),
        "args": notebook.get("args") == arguments(plan),
        "runAsUser": user is None or user > 0,
        "runAsNonRoot": own.get("runAsNonRoot") is True,
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "automountServiceAccountToken": spec.get("automountServiceAccountToken") is False,
        "a mounted token of the service account": not _volumes_of([notebook]) & _with_tokens(spec),
        **{name: not spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")},
    }
    if changed := [name for name, is_as_planned in unlike.items() if not is_as_planned]:
        raise NotTheLaunch(f"modify_pod_hook changes of a launch's pod: {', '.join(changed)}.")


def mounts_claim(pod: Manifest, claim: str, plain: Plain) -> bool:
    """Whether anything in the pod has the volume of that name (a PersistentVolumeClaim's)."""
    return any(
        (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim
        for volume in plain(pod.spec.volumes) or []
    )


def arguments(plan: LaunchPlan) -> list[str]:
    """The plan's command, as a container's ``args``."""
    return [literal(word) for word in plan.command]


def resource_traits(plan: ResourcesModel) -> dict[str, float | None]:
    """KubeSpawner's traits for what the plan says something of: guarantee and limit of memory, of CPU, or of both."""
    memory = {"mem_guarantee": plan.memory_guarantee, "mem_limit": plan.memory_limit}
    cpu = {"cpu_guarantee": plan.cpu_guarantee, "cpu_limit": plan.cpu_limit}
    return {name: value for pair in (memory, cpu) if set(pair.values()) != {None} for name, value in pair.items()}


def literal(value: str) -> str:
    """A value that Kubernetes leaves as it is: it would replace ``$(NAME)`` in it."""
    return value.replace("$", "$$")


def _notebook(pod: Manifest) -> Manifest:
    for container in pod.spec.containers:
        if isinstance(container, V1Container) and container.name == NOTEBOOK:
            return container
    raise NotTheLaunch(f"KubeSpawner.extra_pod_config leaves the pod no container of KubeSpawner's named {NOTEBOOK}.")


def _resources(admins: Mapping[str, Any], plan: ResourcesModel) -> V1ResourceRequirements:
    """What the plan says of memory, CPU and GPUs; what it is silent on, and whatever else there is, is as the admin has it."""
    speaks = {"memory": "mem_limit", "cpu": "cpu_limit"}
    planned = {name for name, trait in speaks.items() if trait in resource_traits(plan)}
    if plan.gpus:
        planned.add(plan.gpus.resource)
    requests = {name: value for name, value in (admins.get("requests") or {}).items() if name not in planned}
    limits = {name: value for name, value in (admins.get("limits") or {}).items() if name not in planned}
    if plan.gpus:
        # Kubernetes takes such a resource whole: what is asked for is what is limited.
        requests[plan.gpus.resource] = limits[plan.gpus.resource] = plan.gpus.count
    for name, guarantee, limit in (
        ("memory", plan.memory_guarantee, plan.memory_limit),
        ("cpu", plan.cpu_guarantee, plan.cpu_limit),
    ):
        if limit is not None:
            limits[name] = limit
            # Without a word, Kubernetes reserves as much as the limit allows.
            requests[name] = min(guarantee or 0, limit)
        elif guarantee is not None:
            requests[name] = guarantee
    return V1ResourceRequirements(requests=requests, limits=limits)


def _place(spec: Manifest, placement: PlacementModel, plain: Plain) -> None:
    """The policy's nodes, in addition to what the admin says of all servers."""
    if placement.node_selector:
        spec.node_selector = {**(plain(spec.node_selector) or {}), **placement.node_selector}
    if placement.tolerations:
        more = [one.model_dump(exclude_none=True) for one in placement.tolerations]
        spec.tolerations = [*(spec.tolerations or []), *more]


def _security(image: ImageModel | None, container: Mapping[str, Any], pod: Mapping[str, Any]) -> dict[str, Any]:
    """The container's security context: nobody's root, no privileges and no way to any."""
    context = {name: container[name] for name in _KEPT_SECURITY if name in container}
    context |= {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **_identity(image, container, pod),
    }
    profiles = [one for one in (container.get("seccompProfile"), pod.get("seccompProfile")) if one]
    chosen = [one for one in profiles if one.get("type") != "Unconfined"]
    context["seccompProfile"] = chosen[0] if chosen else {"type": "RuntimeDefault"}
    return context


def _identity(image: ImageModel | None, container: Mapping[str, Any], pod: Mapping[str, Any]) -> dict[str, int]:
    """Whom a session runs as: the image's own number, or else the admin's, or else the usual one."""
    if image is not None:
        user, group = images.numbers_of(image.user)
        if user is not None:
            return {"runAsUser": user} if group is None else {"runAsUser": user, "runAsGroup": group}
    admins = container.get("runAsUser", pod.get("runAsUser"))
    if not admins:
        # What is not known of the image is left to the node, which refuses root, and names.
        return {} if image is None else {"runAsUser": NAMED_USER}
    groups = {"runAsGroup": container["runAsGroup"]} if "runAsGroup" in container else {}
    return {"runAsUser": admins, **groups}


def _withhold_volumes(pod: Manifest, notebook: Manifest, settings: SessionSettings, plain: Plain) -> None:
    """Leave out of the notebook what may hold somebody's data or secrets; what only the notebook had, of the pod too.

    An empty folder that another container has as well is no longer empty when the session sees it.
    """
    spec = pod.spec
    others = [one for one in [*spec.containers, *(spec.init_containers or [])] if one is not notebook]
    used = _volumes_of(plain(others))
    volumes: dict[str, Mapping[str, Any]] = {volume["name"]: volume for volume in plain(spec.volumes) or []}
    patterns = [*settings.kept_volumes, *(["jupyterhub-internal-certs"] if settings.hubs_certificates else [])]
    withheld = {
        name
        for name, volume in volumes.items()
        if not (_is_of_nobody(volume) and not (name in used and _can_be_filled(volume)))
        and not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    notebook.volume_mounts = [
        mount for mount in notebook.volume_mounts or [] if plain(mount).get("name") not in withheld
    ]
    spec.volumes = [volume for volume in spec.volumes or [] if plain(volume)["name"] not in withheld - used]


def _volumes_of(containers: Iterable[Mapping[str, Any]]) -> set[str]:
    return {
        mount["name"]
        for container in containers
        for mount in [*(container.get("volumeMounts") or []), *(container.get("volumeDevices") or [])]
    }


def _is_of_nobody(volume: Mapping[str, Any]) -> bool:
    kinds = {name for name, value in volume.items() if name != "name" and value is not None}
    if kinds == {"projected"}:
        sources: list[Mapping[str, Any]] = volume["projected"].get("sources") or []
        return all(source.keys() <= _PROJECTED_OF_NOBODY for source in sources)
    if kinds == {"ephemeral"}:
        claim: Mapping[str, Any] = (volume["ephemeral"].get("volumeClaimTemplate") or {}).get("spec") or {}
        return not (claim.get("dataSource") or claim.get("dataSourceRef"))
    return kinds <= _OF_NOBODY


def _can_be_filled(volume: Mapping[str, Any]) -> bool:
    return volume.get("emptyDir") is not None or volume.get("ephemeral") is not None


def _with_tokens(spec: Mapping[str, Any]) -> set[str]:
    """Names of volumes that hold a token for the cluster's API."""
    return {
        volume["name"]
        for volume in spec.get("volumes") or []
        if any("serviceAccountToken" in source for source in (volume.get("projected") or {}).get("sources") or [])
    }
