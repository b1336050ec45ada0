"""`Cluster`: a real Kubernetes of one node that starts in seconds, and of which nothing is left when it has stopped."""

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import configuration
from tests.cluster.binaries import kubernetes_programs
from tests.cluster.external import run_kubectl
from tests.cluster.images import write_pause_image
from tests.cluster.node import (
    HOST_ADDRESS,
    NAME,
    NODE_ADDRESS,
    Node,
    Process,
    make_control_group,
    remains,
    remove_remains,
    until,
)

SECONDS_TO_START = 180.0
SECONDS_TO_WAIT = 1200.0
"""For another cluster of the tests' own, on the same machine, to end."""
# A name without a file: who has it bound has the machine's one cluster, and the kernel takes it back at the latest with the process.
_LOCK = f"\0{NAME}"


@dataclass
class Cluster:
    """One cluster, and this machine has one at a time: `start` waits for another to end. (``REPLAY_TEST_CLUSTER_NUMBER``
    makes it another: see `tests.cluster.node`.)

    Its pods reach this machine at `host_address`, and this machine reaches them at their addresses. It knows no
    NetworkPolicy, and no names of services.
    """

    node: Node = field(default_factory=Node)
    host_address: str = HOST_ADDRESS
    node_address: str = NODE_ADDRESS
    registry_port: int | None = None
    _lock: socket.socket | None = None
    _running: dict[str, Process] = field(default_factory=dict[str, Process])

    @property
    def folder(self) -> Path:
        return self.node.folder

    @property
    def kubeconfig(self) -> Path:
        """For a user who may do all, on this machine."""
        return self.folder / "kubeconfig"

    def start(self) -> None:
        """Return once the node takes pods."""
        kubernetes_programs()
        self._lock = _locked()
        remove_remains(self.folder)
        for name in ("node/log", "node/lib"):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        self.folder.chmod(0o711)
        configuration.write_configuration(self.folder)
        make_control_group()
        self.node.start()
        self._spawn("etcd", configuration.etcd(self.folder))
        self._spawn("containerd", configuration.containerd(self.folder))
        self.start_api_server()
        for name, command in (
            ("controllers", configuration.controllers(self.folder)),
            ("scheduler", configuration.scheduler(self.folder)),
            ("proxy", configuration.proxy(self.folder)),
        ):
            self._spawn(name, command)
        self._until(lambda: "Version" in self.node.run("ctr", "version", check=False), "containerd answers")
        pause = self.folder / "pause.tar"
        write_pause_image(pause, configuration.PAUSE)
        self.import_image(pause)
        self._spawn("kubelet", configuration.kubelet(self.folder))
        self._until(self._is_ready, "the node is ready")

    def _spawn(self, name: str, command: list[str]) -> None:
        self._running[name] = self.node.spawn(name, *command)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait, as long as all that was started runs."""

        def is_so_or_over() -> bool:
            for name, process in self._running.items():
                assert process.is_running, f"{name} ended, before this was so: {what}\n{process.last_words}"
            return is_so()

        until(is_so_or_over, what, SECONDS_TO_START)

    def _asked(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.kubectl_command(*arguments), capture_output=True, text=True)

    def _is_ready(self) -> bool:
        told = self._asked("get", "nodes", "-o", 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')
        return told.stdout == "True" and self._asked("get", "serviceaccount", "default").returncode == 0

    def stop(self) -> None:
        """End it and remove all that it made; fails with what is left all the same.

        May be called more than once, and after a start that failed.
        """
        if self._lock is None:
            return
        self._running.clear()
        try:
            self.node.stop()
            left = remains(self.folder)
            assert not left, f"left of the cluster: {left}"
        finally:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # ---- what may be done with it

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Standard output of Kubernetes' command line. Fails with what it says."""
        return run_kubectl(self.kubectl_command(*arguments), input)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """For those who run it otherwise."""
        return [f"{kubernetes_programs()}/kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]

    def import_image(self, archive: Path) -> None:
        """Give the node an image, from what ``docker save`` wrote."""
        self.node.run("ctr", "--namespace=k8s.io", "images", "import", str(archive))

    def trust_registry(self, host: str) -> None:
        """Let pods have images of the registry at ``address:port``, which has no TLS."""
        configuration.trust_registry(self.folder, host)

    def stop_api_server(self) -> None:
        """Take the API away, and who watches it loses the connection. What runs, runs on."""
        self._running.pop("api-server").kill()

    def start_api_server(self) -> None:
        """Return once it answers."""
        self._spawn("api-server", configuration.api_server(self.folder))
        self._until(lambda: self._asked("get", "--raw", "/readyz").returncode == 0, "the API server is ready")

    def output(self, name: str) -> str:
        """What a program of the cluster said: etcd, containerd, api-server, controllers, scheduler, kubelet or proxy."""
        return (self.folder / "output" / name).read_text(errors="replace")


def _locked() -> socket.socket:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while True:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(_LOCK)
        except OSError:  # another has it
            lock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return lock
