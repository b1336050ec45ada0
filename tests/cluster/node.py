"""The node: a process tree with a network, mounts and process numbers of its own, which ends as a whole.

What Kubernetes leaves behind on a machine (mounts, sockets, logs, network namespaces) is inside and ends with its first
process. `remove_remains` takes away the rest: rules of the firewall, control groups, settings of the kernel, files. It
knows them by name, so it does so as well after a test run that was killed.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.cluster.binaries import containerd_programs, ending_with_this, program

_NUMBER = int(os.environ.get("REPLAY_TEST_CLUSTER_NUMBER", "0"))
# From 0 to 9. Clusters with two numbers can run side by side; the kernel's settings are then as the first one found them
# only when the first one is also the last.
NAME = f"replay-cluster-{_NUMBER}"
"""Of the folder, and of the control group that all pods are in."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
HOST_ADDRESS = f"10.254.{_NUMBER}.1"
NODE_ADDRESS = f"10.254.{_NUMBER}.2"
_LINK_NETWORK = f"10.254.{_NUMBER}.0/30"
POD_NETWORK = f"10.{88 + _NUMBER}.0.0/16"
_HOST_END, _NODE_END = f"cluster{_NUMBER}-host", f"cluster{_NUMBER}-node"
_SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What kubelet sets, for the whole machine."""
_PROGRAMS = {
    "nsenter",
    "unshare",
    "sh",
    "etcd",
    "containerd",
    "kubelet",
    "kube-proxy",
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
}
"""Names of processes that are told the node's folder."""
_SECONDS = 30.0

# What is written below these folders is the node's own. What ends as the first process's child is nobody's to wait for.
_FIRST_PROCESS = """
mkdir -p "$1/log" "$1/lib"
mount --bind "$1/log" /var/log
mount --bind "$1/lib" /var/lib
mount -t tmpfs -o mode=755 none /run
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
bridges=/proc/sys/net/bridge/bridge-nf-call-iptables
[ ! -e $bridges ] || echo 1 > $bridges
touch "$1/ready"
exec env --ignore-signal=CHLD sleep infinity
"""


def cluster_folder() -> Path:
    """All files of the one cluster that a machine can have."""
    return Path(tempfile.gettempdir()) / NAME


@dataclass
class Process:
    """A program that was started on the node."""

    name: str
    outside: "subprocess.Popen[bytes]"
    """Waits for it outside, where its number is another."""
    log: Path

    @property
    def is_running(self) -> bool:
        return self.outside.poll() is None

    def kill(self) -> None:
        """End it at once, and wait."""
        with suppress(psutil.NoSuchProcess):
            for inside in psutil.Process(self.outside.pid).children():
                inside.kill()
        self.outside.wait(_SECONDS)

    @property
    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@dataclass
class Node:
    """Starts programs in there. To be started by the main thread: the kernel ends the node with the thread that made it."""

    folder: Path = field(default_factory=cluster_folder)
    _first: "subprocess.Popen[bytes] | None" = None
    _target: int = 0
    _spawned: list[Process] = field(default_factory=list[Process])

    def start(self) -> None:
        """Make it, and its network."""
        (self.folder / "sysctls.json").write_text(json.dumps({name: _sysctl(name) for name in _SYSCTLS}))
        own = self.folder / "node"
        (self.folder / "output").mkdir()
        output = self.folder / "output" / "node"
        with output.open("wb") as log:
            self._first = subprocess.Popen(
                ending_with_this(
                    [
                        "unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child=KILL",
                        "--mount-proc", "sh", "-euc", _FIRST_PROCESS, "sh", str(own),
                    ]
                ),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        until(lambda: (own / "ready").exists() or self._first_has_ended(), "the node's first process runs", _SECONDS)
        assert not self._first_has_ended(), output.read_text()
        (inside,) = psutil.Process(self._first.pid).children()
        self._target = inside.pid
        (self.folder / "node.json").write_text(json.dumps([inside.pid, inside.create_time()]))
        self._connect()

    def _first_has_ended(self) -> bool:
        return self._first is None or self._first.poll() is not None

    def _connect(self) -> None:
        _host(f"ip link add {_HOST_END} type veth peer name {_NODE_END} netns {self._target}")
        _host(f"ip addr add {HOST_ADDRESS}/30 dev {_HOST_END}")
        _host(f"ip link set {_HOST_END} up")
        self.run("ip", "addr", "add", f"{NODE_ADDRESS}/30", "dev", _NODE_END)
        self.run("ip", "link", "set", _NODE_END, "up")
        self.run("ip", "route", "add", "default", "via", HOST_ADDRESS)
        _host(f"ip route add {POD_NETWORK} via {NODE_ADDRESS}")
        for table, chain, rule in _rules():
            _host(f"iptables -w -t {table} -I {chain} {rule}")
        # It stays so: by the end, engines of other tests may rely on it.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _inside(self, command: Sequence[str]) -> list[str]:
        assert self._target, "the node is not started"
        return [program("nsenter"), f"--target={self._target}", "--net", "--mount", "--pid", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Standard output of a program that ends by itself."""
        done = subprocess.run(
            self._inside(command), env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def spawn(self, name: str, *command: str) -> Process:
        """Start a program that stays. What it says is in a file by its name, also what it said before."""
        log = self.folder / "output" / name
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._inside(command),
                env=_environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._spawned.append(Process(name, process, log))
        return self._spawned[-1]

    def stop(self) -> None:
        """End all that runs on it, and remove what it was."""
        remove_remains(self.folder)
        outside = [process.outside for process in self._spawned]
        for process in (*outside, self._first):
            if process is not None:
                process.wait(_SECONDS)
        self._first, self._target, self._spawned = None, 0, []


def remove_remains(folder: Path) -> None:
    """Take away what a node in this folder made on the machine, now or in a test run that was killed."""
    _kill_first_process(folder)
    with suppress(FileNotFoundError):
        for name, value in json.loads((folder / "sysctls.json").read_text()).items():
            if _sysctl(name) != value:
                Path("/proc/sys", name).write_text(value)
    for table, chain, rule in _rules():
        while _host(f"iptables -w -t {table} -D {chain} {rule}", check=False):
            pass
    _host(f"ip link del {_HOST_END}", check=False)  # mostly it has ended with the node, and the route with it
    until(_control_groups_are_removed, "the pods' control groups are empty", _SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    assert not folder.exists(), f"{folder} cannot be removed; is something mounted there?"


def _kill_first_process(folder: Path) -> None:
    """The kernel then kills all others of the node, before this one is gone."""
    try:
        number, created = json.loads((folder / "node.json").read_text())
        process = psutil.Process(number)
        if process.create_time() != created:
            return  # Another has the number now.
        process.send_signal(signal.SIGKILL)
        process.wait(_SECONDS)
    except (FileNotFoundError, psutil.NoSuchProcess):
        return


def control_groups() -> list[Path]:
    """Those of pods, in each hierarchy that the machine has."""
    return [path for path in (CONTROL_GROUPS / NAME, *CONTROL_GROUPS.glob(f"*/{NAME}")) if path.is_dir()]


def make_control_group() -> None:
    """The group that all pods will be in, in each hierarchy, with all that the machine can control."""
    controllers = CONTROL_GROUPS / "cgroup.controllers"
    if controllers.exists():  # version 2, which has one hierarchy
        for name in controllers.read_text().split():
            (CONTROL_GROUPS / "cgroup.subtree_control").write_text(f"+{name}")
        (CONTROL_GROUPS / NAME).mkdir(exist_ok=True)
        return
    for hierarchy in CONTROL_GROUPS.iterdir():
        (hierarchy / NAME).mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # Empty in a new group, and nothing may run there then.
            if (hierarchy / name).exists():
                (hierarchy / NAME / name).write_text((hierarchy / name).read_text())


def _control_groups_are_removed() -> bool:
    for top in control_groups():
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # Busy while the last process of it is ending.
                os.rmdir(folder)
    return not control_groups()


def remains(folder: Path) -> list[str]:
    """What is left of a node in this folder, as sentences. Settings of the kernel are not: nobody knows how they were."""
    found = [f"the folder {path}" for path in (folder,) if path.exists()]
    found += [f"the control group {path}" for path in control_groups()]
    found += [
        f"the rule {rule}"
        for table, chain, rule in _rules()
        if _host(f"iptables -w -t {table} -C {chain} {rule}", check=False)
    ]
    found += [f"the link {_HOST_END}"] if _host(f"ip link show {_HOST_END}", check=False) else []
    for what in (POD_NETWORK, _LINK_NETWORK):
        told = subprocess.run(
            ("ip", "route", "show", what), env=_environment(), capture_output=True, text=True, check=True
        )
        found += [f"the route {line}" for line in told.stdout.splitlines()]
    found += [f"the mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f" {folder}" in line]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in _PROGRAMS and any(str(folder) in word for word in process.cmdline()):
                found.append(f"the process {process.pid}, {process.name()}")
    return found


def _rules() -> list[tuple[str, str, str]]:
    """Pods reach the world as this machine, whatever else the firewall says of packets that pass through."""
    return [
        ("filter", "FORWARD", f"-i {_HOST_END} -j ACCEPT"),
        ("filter", "FORWARD", f"-o {_HOST_END} -j ACCEPT"),
        *(("nat", "POSTROUTING", f"-s {net} ! -o {_HOST_END} -j MASQUERADE") for net in (POD_NETWORK, _LINK_NETWORK)),
    ]


def _sysctl(name: str) -> str:
    return Path("/proc/sys", name).read_text().strip()


def _environment() -> dict[str, str]:
    path = f"{containerd_programs()}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": "/root"}


def _host(command: str, *, check: bool = True) -> bool:
    """Whether a command succeeded."""
    done = subprocess.run(command.split(), env=_environment(), capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.returncode == 0


def until(is_so: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for what has no event."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.05)
