"""Where the programs of a cluster are: Debian's packages, and those of Kubernetes, made once and kept in a cache.

To make them takes minutes, which is more than a test has: ``python -m tests.cluster --prepare`` does it beforehand.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.cluster.source import KEYRING, PROGRAMS, REFLECT2, make_programs
from tests.containers.tools import CACHE, engine_root

CNI = Path("/usr/lib/cni")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_FROM_DEBIAN = {
    "busybox": "busybox-static",
    "conntrack": "conntrack",
    "dpkg-source": "dpkg-dev",
    "etcd": "etcd-server",
    "gcc": "gcc libc6-dev",
    "go": "golang-go",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "runc": "runc",
    "setpriv": "util-linux",
}
"""Programs, and the packages that have them."""


def why_no_cluster() -> str | None:
    """Why a cluster cannot be started here; none where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a cluster of the tests' own is started as root on Linux"
    packages = {package for name, package in _FROM_DEBIAN.items() if shutil.which(name, path=_PATH) is None}
    if not (CNI / "bridge").exists():
        packages.add("containernetworking-plugins")
    if not REFLECT2.is_dir():
        packages.add("golang-github-modern-go-reflect2-dev")
    if packages:
        return f"not all of its programs are here (Debian: apt install {' '.join(sorted(packages))})"
    return None if KEYRING.exists() else f"no {KEYRING}, by which Debian's packages are checked"


def containerd_programs() -> Path:
    """The folder with containerd's programs: those of the tests' engines, from the next release of Debian.

    The one of Debian 12 loses what a container says just before it ends.
    """
    return engine_root() / "usr/bin"


def ending_with_this(command: list[str]) -> list[str]:
    """A command whose process the kernel ends when the thread that starts it is gone: also when a test run is killed."""
    setpriv = shutil.which("setpriv", path=_PATH)
    return command if setpriv is None else [setpriv, "--pdeathsig", "KILL", *command]


def program(name: str) -> str:
    """The path of a program of Debian's. Raises `LookupError` where it is not installed."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise LookupError(f"There is no {name} here.")
    return found


def kubectl() -> str:
    """The machine's own command line where it has one, for a cluster that is not the tests' own."""
    return shutil.which("kubectl") or str(kubernetes_programs() / "kubectl")


@cache
def kubernetes_programs() -> Path:
    """The folder with the programs of Kubernetes, made first where the cache has them not."""
    version = _source_version()
    go = subprocess.run(("go", "version"), capture_output=True, text=True, check=True).stdout
    recipe = Path(__file__).with_name("source.py").read_bytes()
    key = hashlib.sha256(b"\n".join((version.encode(), go.encode(), recipe))).hexdigest()
    folder = CACHE / f"kubernetes-{key[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "kubernetes-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make(version, folder)
    return folder


def _make(version: str, folder: Path) -> None:
    part = folder.with_name(f"part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    make_programs(version, part)
    assert all((part / "bin" / name).exists() for name in (*PROGRAMS, "pause"))
    (part / "bin").rename(folder)
    shutil.rmtree(part)


def _source_version() -> str:
    """Of Debian's newest source package: that of the client's package, which machines know without sources in their lists."""
    command = ("apt-cache", "show", "--no-all-versions", "kubernetes-client")
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    of_source = re.search(r"^Source: kubernetes \((.+)\)$", told, re.MULTILINE)
    of_package = re.search(r"^Version: (.+)$", told, re.MULTILINE)
    found = of_source or of_package
    if found is None:
        raise LookupError("Debian's lists here have no kubernetes-client; is “apt-get update” due?")
    return re.sub(r"\+b[0-9]+$", "", found[1])
