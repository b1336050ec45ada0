"""Builds in Kubernetes: may the service do what they take, is what its settings name there, are the engines ready.

As the account by which the service itself reaches the cluster. Imported where that is asked for alone: the package
kubernetes_asyncio is there with the extra “kubernetes”.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import yaml
from kubernetes_asyncio.client import AuthorizationV1Api, CoreV1Api
from kubernetes_asyncio.client.api_client import ApiClient
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config.config_exception import ConfigException

from replay_build_service.builders.kubernetes.client import own_namespace, way_to_the_cluster
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, not_used, ok
from replay_build_service.settings import ServiceSettings

RIGHTS = {
    "pods": ("get", "list", "watch", "create", "delete"),
    "pods/log": ("get",),
    "pods/exec": ("get", "create"),
    "events": ("list",),
}
"""Of the core API group, in the namespace of builds."""

_TIMEOUTS: Any = (3.0, 5.0)
"""Seconds to connect, and to answer."""

_PUSH_SECRET_TYPE, _PUSH_SECRET_KEY = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"


class _NoCluster(Exception):
    """The cluster does not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class _Connection:
    client: ApiClient
    namespace: str


async def check_rights(settings: ServiceSettings) -> Verdict:
    """Whether the account has each right that builds take, as Kubernetes itself says."""
    try:
        async with _connected(settings) as connection:
            asked = [(resource, verb) for resource, verbs in RIGHTS.items() for verb in verbs]
            answers = await asyncio.gather(*(_may(connection, resource, verb) for resource, verb in asked))
            missing = [f"{verb} {resource}" for (resource, verb), may in zip(asked, answers, strict=True) if not may]
            if not missing:
                may = f"The service may do in the namespace {connection.namespace} what builds take"
                if connection.namespace == await asyncio.to_thread(own_namespace):
                    return ok(
                        f"{may}. That is its own namespace: who takes the service over can mount every Secret that is there, and "
                        "run programs in every pod, the hub's too where it is there.",
                        "Give builds a namespace of their own and name it in build_namespace; the chart does.",
                    )
                return ok(f"{may}.")
            return failed(
                f"The service's account may not, in the namespace {connection.namespace}: {', '.join(missing)}.",
                "The chart's Role has these rights (helm upgrade restores it); else add them to the Role that is bound to the "
                f'account: {{apiGroups: [""], resources: [{", ".join(sorted({one.split()[1] for one in missing}))}], '
                f"verbs: [{', '.join(sorted({one.split()[0] for one in missing}))}]}}.",
            )
    except _NoCluster as reason:
        return _unreachable(reason)


async def check_build_pods(settings: ServiceSettings) -> Verdict:
    """Whether what build pods are made of is named, and is there as far as the account may look."""
    if not settings.builder_image:
        return failed(
            "No image is named that build pods run.",
            "Set c.ReplayBuildService.builder_image, best by digest (name@sha256:…); the chart does.",
        )
    unread: list[str] = []
    try:
        async with _connected(settings) as connection:
            for kind, name in (("Secret", settings.build_push_secret), ("ConfigMap", settings.build_ca_config_map)):
                problem = await _object_problem(connection, kind, name) if name else None
                if isinstance(problem, Verdict):
                    return problem
                if problem is not None:
                    unread.append(problem)
            where = connection.namespace
    except _NoCluster as reason:
        return _unreachable(reason)
    named = f"Build pods run {settings.builder_image}"
    if not settings.build_push_secret:
        return not_known(
            f"{named} and push without an account. If the registry lets everybody push, a step of a build can replace images that "
            "are named by tag.",
            "Have the registry refuse pushes without an account, and name the Secret with one in build_push_secret.",
        )
    if unread:
        return not_known(
            f"{named}; the service may not look at {' and '.join(unread)}, as it should be.",
            f"See for yourself: kubectl -n {where} get {' '.join(one.replace(' ', '/').lower() for one in unread)}.",
        )
    return ok(f"{named}; what their settings name is there.")


async def check_engine_pods(settings: ServiceSettings) -> Verdict:
    """Whether the engines are ready that builds are sent to."""
    selector = settings.build_engine_pods
    if not selector:
        return not_used("No pods of engines are named: builds use what their nodes have, which is not seen from here.")
    try:
        async with _connected(settings) as connection:
            core = CoreV1Api(connection.client)
            listed: Any = await _asked(
                core.list_namespaced_pod(connection.namespace, label_selector=selector, _request_timeout=_TIMEOUTS)
            )
            where = connection.namespace
    except ApiException as error:
        return failed(
            f"Pods with {selector} cannot be listed: {_told(error)}.",
            "See that the selector is one, and that the account may list pods.",
        )
    except _NoCluster as reason:
        return _unreachable(reason)
    pods = cast("Sequence[Any]", listed.items)
    ready = [pod for pod in pods if _is_ready(pod)]
    look = f"kubectl -n {where} get pods -l {selector} -o wide"
    if not ready:
        return failed(
            f"None of {len(pods)} engines ({selector}) is ready: builds wait.",
            f"{look}; where there is none, see the DaemonSet's node selector and build_engine_pods.",
        )
    if len(ready) < len(pods):
        others = ", ".join(sorted(str(pod.metadata.name) for pod in pods if pod not in ready))
        return ok(f"{len(ready)} of {len(pods)} engines are ready; not {others}.", f"Look at them: {look}.")
    return ok(f"All {len(pods)} engines are ready.")


# ---- asking


@asynccontextmanager
async def _connected(settings: ServiceSettings) -> AsyncGenerator[_Connection]:
    """Raises `_NoCluster`."""
    try:
        namespace = settings.build_namespace or await asyncio.to_thread(own_namespace)
        configuration = await way_to_the_cluster(settings.kubeconfig or None)
    except (ConfigException, OSError, yaml.YAMLError) as error:
        raise _NoCluster(f"nothing says how it is reached ({error})") from error
    if not namespace:
        raise _NoCluster("no namespace is set for builds (build_namespace)")
    try:
        client = ApiClient(configuration)
        async with client:
            yield _Connection(client, namespace)
    except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
        raise _NoCluster(str(error) or type(error).__name__) from error


async def _asked(question: Any) -> Any:
    """The answer. Raises `ApiException` for a refusal, and `_NoCluster` where the account itself is refused."""
    try:
        return await question
    except ApiException as error:
        if error.status == 401 or (error.status or 0) >= 500:
            raise _NoCluster(_told(error)) from error
        raise
    except ValueError as error:
        raise _NoCluster("its answer makes no sense") from error


async def _may(connection: _Connection, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"namespace": connection.namespace, "verb": verb, "resource": name}
    if subresource:
        attributes["subresource"] = subresource
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    try:
        authorization = AuthorizationV1Api(connection.client)
        answer = await _asked(
            authorization.create_self_subject_access_review(cast("Any", review), _request_timeout=_TIMEOUTS)
        )
    except ApiException as error:
        raise _NoCluster(f"it does not say what the account may do ({_told(error)})") from error
    return bool(answer.status and answer.status.allowed)


async def _object_problem(connection: _Connection, kind: str, name: str) -> Verdict | str | None:
    """A fault; or what may not be looked at; or nothing."""
    core = CoreV1Api(connection.client)
    read: Any = core.read_namespaced_secret if kind == "Secret" else core.read_namespaced_config_map
    setting = "build_push_secret" if kind == "Secret" else "build_ca_config_map"
    try:
        found: Any = await _asked(read(name, connection.namespace, _request_timeout=_TIMEOUTS))
    except ApiException as error:
        if error.status == 403:
            return f"{kind} {name}"
        return failed(
            f"There is no {kind} {name} in the namespace {connection.namespace}: {_told(error)}.",
            f"Make it there, or set c.ReplayBuildService.{setting} to another.",
        )
    key = _PUSH_SECRET_KEY if kind == "Secret" else "ca.crt"
    if key not in (found.data or {}) or (kind == "Secret" and found.type != _PUSH_SECRET_TYPE):
        return failed(
            f"The {kind} {name} has no {key}"
            + (f" or is not of the type {_PUSH_SECRET_TYPE}." if kind == "Secret" else "."),
            "kubectl create secret docker-registry makes one that fits."
            if kind == "Secret"
            else f"Make it anew: kubectl create configmap {name} --from-file=ca.crt=FILE.",
        )
    return None


def _is_ready(pod: Any) -> bool:
    conditions = cast("Sequence[Any]", (pod.status and pod.status.conditions) or ())
    is_ending = pod.metadata.deletion_timestamp is not None
    return not is_ending and any(one.type == "Ready" and one.status == "True" for one in conditions)


def _told(error: ApiException) -> str:
    return f"{error.status} {error.reason or ''}".strip()


def _unreachable(reason: _NoCluster) -> Verdict:
    return failed(
        f"Kubernetes cannot be asked: {reason}.",
        "See c.ReplayBuildService.kubeconfig and build_namespace; in a pod, that its service account's token is mounted and "
        "that its NetworkPolicy lets it reach the API server.",
    )
