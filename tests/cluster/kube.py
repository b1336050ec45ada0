"""`Kube`: what tests ask a cluster, and what they wait for. Synchronous; asynchronous tests run it in a thread."""

import json
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import httpx

from tests.cluster.binaries import ending_with_this
from tests.cluster.external import AnyCluster
from tests.cluster.node import until

SECONDS = 90.0
_ENDED = ("Succeeded", "Failed")
_OF_KUBERNETES = {"secrets": "default-token-", "configmaps": "kube-root-ca.crt"}
"""Names, or beginnings of names, of what Kubernetes puts into each namespace by itself."""

_NAMESPACES = "/api/v1/namespaces"
_PATHS = {
    "pods": "/api/v1",
    "secrets": "/api/v1",
    "configmaps": "/api/v1",
    "services": "/api/v1",
    "events": "/api/v1",
    "serviceaccounts": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "deployments": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
}


class Kube:
    """Asks through ``kubectl proxy``, which knows every way in which a cluster lets a user in. A context manager."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster = cluster
        self._folder = tempfile.TemporaryDirectory(prefix="replay-kube-")  # for root alone, as sockets need it
        self._proxy: subprocess.Popen[str] | None = None
        self._client: httpx.Client | None = None
        self._removed: list[str] = []

    def __enter__(self) -> Self:
        path = f"{self._folder.name}/socket"
        command = ending_with_this(self.cluster.kubectl_command("proxy", f"--unix-socket={path}"))
        self._proxy = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._proxy.stdout
        assert "Starting to serve" in self._proxy.stdout.readline(), "kubectl proxy does not start"
        # Where the API was away for a while, the first answers are no answers.
        transport = httpx.HTTPTransport(uds=path, retries=3)
        self._client = httpx.Client(transport=transport, base_url="http://localhost", timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(httpx.TransportError):  # The API may be gone already, and what was there with it.
            self.wait_until(lambda: not any(map(self.has_namespace, self._removed)), f"{self._removed} are gone")
        if self._client is not None:
            self._client.close()
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait(20)
            assert self._proxy.stdout
            self._proxy.stdout.close()
        self._folder.cleanup()

    # ---- asking

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Any call of the API, whatever it answers."""
        assert self._client is not None
        return self._client.request(method, path, **more)

    def items(self, kind: str, namespace: str, *, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        """All objects of a kind, ``pods`` for one, with those labels and fields, as the API selects by them."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        return self.request("GET", _path(kind, namespace), params=selectors).raise_for_status().json()["items"]

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """One object; none where there is none."""
        answer = self.request("GET", f"{_path(kind, namespace)}/{name}")
        return None if answer.status_code == 404 else answer.raise_for_status().json()

    def pods(self, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        return self.items("pods", namespace, labels=labels)

    def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.get("pods", namespace, name)

    def phase(self, namespace: str, name: str) -> str | None:
        """Of a pod: Pending, Running, Succeeded, Failed. None where there is no pod."""
        pod = self.pod(namespace, name)
        return None if pod is None else pod["status"].get("phase")

    def events(self, namespace: str, about: str = "") -> list[dict[str, Any]]:
        """In the order in which they were made; about the object of that name, or about all."""
        fields = f"involvedObject.name={about}" if about else ""
        found = self.items("events", namespace, fields=fields)
        return sorted(found, key=lambda event: int(event["metadata"]["resourceVersion"]))

    def log(self, namespace: str, pod: str, container: str = "") -> str:
        """As much of it as kubelet has not thrown away."""
        answer = self.request("GET", f"{_path('pods', namespace)}/{pod}/log", params={"container": container})
        return answer.raise_for_status().text

    def run_in(self, namespace: str, pod: str, *command: str, container: str = "") -> str:
        """Standard output of a command in a pod that runs."""
        chosen = [f"--container={container}"] if container else []
        return self.cluster.kubectl("exec", f"--namespace={namespace}", pod, *chosen, "--", *command)

    # ---- changing

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Make them, or make them so. Each names its kind, and its namespace where it is in one."""
        self.cluster.kubectl(
            "apply", "--filename=-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def create(self, kind: str, namespace: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Make one that is not there yet; as it was made."""
        return self.request("POST", _path(kind, namespace), json=document).raise_for_status().json()

    def patch(self, kind: str, namespace: str, name: str, change: Mapping[str, Any]) -> None:
        """By a merge patch (RFC 7386)."""
        headers = {"Content-Type": "application/merge-patch+json"}
        self.request(
            "PATCH", f"{_path(kind, namespace)}/{name}", content=json.dumps(change), headers=headers
        ).raise_for_status()

    def delete(self, kind: str, namespace: str, name: str, *, seconds: int | None = None) -> None:
        """Ask for its end; ``seconds`` are what its processes have for that. Not there is as good."""
        grace = {} if seconds is None else {"gracePeriodSeconds": str(seconds)}
        answer = self.request("DELETE", f"{_path(kind, namespace)}/{name}", params=grace)
        assert answer.is_success or answer.status_code == 404, answer.text

    @contextmanager
    def namespace(self, prefix: str) -> Generator[str]:
        """A new one, ``prefix-…``, that takes pods; at the end it is removed with all that is in it."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.request("POST", _NAMESPACES, json={"metadata": {"name": name}}).raise_for_status()
        try:
            self.wait_until(lambda: self._takes_pods(name), f"{name} takes pods")
            yield name
        finally:
            self.remove_namespace(name)

    def _takes_pods(self, namespace: str) -> bool:
        """Not before its account has a token, where Kubernetes gives them one."""
        answer = self.request(
            "POST", _path("pods", namespace), params={"dryRun": "All"}, json=small_pod("asked", "any")
        )
        return answer.is_success

    def remove_namespace(self, name: str) -> None:
        """Return once nothing runs there any more. The namespace itself goes in its own time, by the end of this `Kube`."""
        pods = _path("pods", name)
        self.request("DELETE", pods, params={"gracePeriodSeconds": "1"}).raise_for_status()
        self.wait_until(lambda: not any(map(_runs, self.pods(name))), f"no pod runs in {name}")
        # That they have ended is written down at once; that they can be removed, kubelet finds each ten seconds.
        self.request("DELETE", pods, params={"gracePeriodSeconds": "0"}).raise_for_status()
        self.request("DELETE", f"{_NAMESPACES}/{name}").raise_for_status()
        self._removed.append(name)

    def has_namespace(self, name: str) -> bool:
        return self.request("GET", f"{_NAMESPACES}/{name}").status_code != 404

    # ---- waiting

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        """Ask again and again; fails with ``what`` was waited for."""
        until(is_so, what, seconds)

    def wait_for_phase(self, namespace: str, name: str, *phases: str, seconds: float = SECONDS) -> dict[str, Any]:
        """The pod, once its phase is one of these. Fails at once where it has ended otherwise."""

        def is_so() -> bool:
            now = self.phase(namespace, name)
            assert now in phases or now not in _ENDED, f"{name} is {now}: {self._told(namespace, name)}"
            return now in phases

        try:
            self.wait_until(is_so, f"{name} is {' or '.join(phases)}", seconds)
        except AssertionError as error:
            error.add_note(self._told(namespace, name))
            raise
        pod = self.pod(namespace, name)
        assert pod is not None
        return pod

    def wait_until_gone(self, kind: str, namespace: str, name: str, seconds: float = SECONDS) -> None:
        self.wait_until(lambda: self.get(kind, namespace, name) is None, f"{name} is gone", seconds)

    def _told(self, namespace: str, name: str) -> str:
        """What Kubernetes says of a pod."""
        lines = [f"{event['type']} {event['reason']}: {event.get('message')}" for event in self.events(namespace, name)]
        pod = self.pod(namespace, name)
        statuses = json.dumps(pod["status"].get("containerStatuses")) if pod else "there is no such pod"
        log = ""
        with suppress(httpx.HTTPStatusError):
            log = self.log(namespace, name)[-2000:]
        return "\n".join((statuses, *lines, log))

    # ---- what is left

    def left(self, namespace: str, *kinds: str, labels: str = "") -> list[str]:
        """``kind/name`` of what is there and was not put there by Kubernetes itself; pods, Secrets and the like by default."""
        chosen = kinds or ("pods", "secrets", "configmaps", "services", "jobs", "persistentvolumeclaims")
        found = (
            (kind, item["metadata"]["name"]) for kind in chosen for item in self.items(kind, namespace, labels=labels)
        )
        return [f"{kind}/{name}" for kind, name in found if not name.startswith(_OF_KUBERNETES.get(kind, "/"))]

    def assert_nothing_left(self, namespace: str, *kinds: str, labels: str = "", seconds: float = SECONDS) -> None:
        """Wait for what is about to end, and fail by name with what stays."""
        with suppress(AssertionError):
            self.wait_until(lambda: not self.left(namespace, *kinds, labels=labels), "nothing is left", seconds)
        assert self.left(namespace, *kinds, labels=labels) == []


def _runs(pod: Mapping[str, Any]) -> bool:
    return any("running" in status["state"] for status in pod["status"].get("containerStatuses", ()))


def _path(kind: str, namespace: str) -> str:
    return f"{_PATHS[kind]}/namespaces/{namespace}/{kind}"


def small_pod(name: str, image: str, command: Sequence[str] = (), **container: Any) -> dict[str, Any]:
    """A pod of one container, ``main``, which is not started again; ``container`` is more of that one."""
    running = {"name": "main", "image": image, **({"command": list(command)} if command else {}), **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [running]},
    }
