"""A Kubernetes API that misbehaves as real ones do, a session's server that answers, and a spawner that uses both."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import kmock
import pytest
from kubespawner import clients
from tornado import web

from tests.unit.kube_cases import PLAN, Spawner, asked, spawner_of
from tests.unit.launch_plans import LAUNCH

NAMESPACE, NAME = "users", "jupyter-ada"
PODS = kmock.resource("", "v1", "pods")
EVENTS = kmock.resource("", "v1", "events")

RUNNING = {"running": {"startedAt": "2026-11-24T00:00:00Z"}}


class Api(kmock.KubernetesEmulator):
    """Keeps pods and events, and does what is said before each request of a kind: answers an error, or nothing at all."""

    faults: dict[str, list[Any]]
    """By ``create``, ``watch`` and the like; each for one request: a status, an exception, or an event to wait for."""
    seen: list[str]

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.faults, self.seen = {}, []
        self.resources[PODS] = kmock.ResourceInfo(namespaced=True)
        self.resources[EVENTS] = kmock.ResourceInfo(namespaced=True)

    async def _handle(self, request: kmock.Request) -> Any:
        if request.params.get("watch") == "True":
            object.__setattr__(request, "action", kmock.action.WATCH)  # as this client spells it
        kind = request.subresource or (request.action.value.lower() if request.action else "other")
        self.seen.append(kind)
        fault = self.faults[kind].pop(0) if self.faults.get(kind) else None
        if isinstance(fault, asyncio.Event):
            await fault.wait()
        elif isinstance(fault, Exception):
            assert request._raw_request is not None
            request._raw_request.transport.close()
        elif isinstance(fault, tuple):
            return await self._render_error(kmock.KubernetesError(*fault))
        if kind == "create":
            request.data["metadata"] |= {
                "uid": secrets.token_hex(4),
                "namespace": NAMESPACE,
                "resourceVersion": "1",
            }
            request.data["status"] = {"phase": "Pending"}
        if kind == "delete" and (wanted := ((request.data or {}).get("preconditions") or {}).get("uid")):
            here = self.pod
            if here is not None and here["metadata"]["uid"] != wanted:
                return await self._render_error(kmock.KubernetesError(409, "Conflict", "another uid"))
        answer = await super()._handle(request)
        if isinstance(fault, int):
            # It was done, and the answer is another one.
            return await self._render_error(kmock.KubernetesError(fault, "Fault", "lost"))
        return answer

    @property
    def pod(self) -> dict[str, Any] | None:
        """The session's."""
        with suppress(KeyError):
            found = self.objects[PODS, NAMESPACE, NAME]
            return None if found.deleted else found.last.raw
        return None

    async def put(self, change: dict[str, Any]) -> None:
        """Change the pod, as its node does."""
        number = str(len(self.seen) + 1000 + int(secrets.token_hex(2), 16))
        stored = self.objects[PODS, NAMESPACE, NAME]
        stored.patch({**change, "metadata": {**change.get("metadata", {}), "resourceVersion": number}})
        await self._buses[PODS].put({"type": "MODIFIED", "object": stored.last.raw})

    async def becomes(self, state: dict[str, Any], phase: str = "Pending", **more: Any) -> None:
        """Change the state of its container."""
        notebook = {"name": "notebook", "state": state, "ready": "running" in state, **more}
        await self.put({"status": {"phase": phase, "podIP": "127.0.0.1", "containerStatuses": [notebook]}})

    async def tell(self, reason: str, message: str, uid: str = "") -> None:
        """An event about the pod."""
        assert self.pod is not None
        about = {"kind": "Pod", "name": NAME, "uid": uid or self.pod["metadata"]["uid"], "fieldPath": "spec.containers{notebook}"}  # fmt: skip
        name = f"{NAME}.{len(self.seen) + len(list(self.objects)):08x}"
        event = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": "1"}, "reason": reason, "message": message, "type": "Normal", "lastTimestamp": "2026-11-24T00:00:00Z", "involvedObject": about}  # fmt: skip
        self.objects[EVENTS, NAMESPACE, name] = event
        await self._buses[EVENTS].put({"type": "ADDED", "object": event})

    async def remove(self) -> None:
        """As if somebody had deleted it, and it is gone."""
        stored = self.objects[PODS, NAMESPACE, NAME]
        raw = stored.last.raw
        stored.delete()
        await self._buses[PODS].put({"type": "DELETED", "object": raw})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    clients.load_config.cache_clear()
    # Of the class, and so of all tests.
    Spawner.reflectors.clear()
    async with Api() as handler, kmock.Server(handler):
        yield handler
        await Spawner._stop_all_reflectors()
    clients.load_config.cache_clear()


@asynccontextmanager
async def server(head: str = "X-JupyterHub-Version: 6.1.1") -> AsyncIterator[int]:
    """A session's server; yields its port."""
    talks: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, talks))


async def asked_spawner(api: Api, port: int = 1, plan: Any = PLAN, **settings: Any) -> Spawner:
    """One that has been asked for a launch."""
    url = str(api.url).rstrip("/")
    spawner = spawner_of(plan, namespace=NAMESPACE, k8s_api_host=url, port=port, **({"start_timeout": 20} | settings))
    spawner.orm_spawner.server = orm_server = object()
    spawner._server = SimpleNamespace(
        orm_server=orm_server, base_url="/user/ada/", url=f"http://127.0.0.1:{port}/user/ada/"
    )
    await asked(spawner, {"launch": LAUNCH})
    return spawner


async def until(is_so: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0.01)
    assert is_so(), what


@asynccontextmanager
async def starting(spawner: Spawner, api: Api) -> AsyncIterator["asyncio.Task[str]"]:
    """A start whose pod is there."""
    start = asyncio.create_task(spawner.start())
    try:
        await until(lambda: api.pod is not None or start.done(), "the pod is there")
        yield start
    finally:
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)


async def sentence(start: "asyncio.Task[str]") -> str:
    with pytest.raises(web.HTTPError) as refused:
        async with asyncio.timeout(15):
            await start
    assert refused.value.status_code == 422
    return str(refused.value.log_message)


def steps(spawner: Spawner) -> list[str]:
    return [step["message"] for step in spawner._steps._steps]
