"""What some tests need of a machine: by name, how it is found, and why it is missing."""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.cluster.binaries import why_no_cluster
from tests.cluster.external import external_cluster, why_no_control
from tests.containers.tools import why_no_engine

ROOT = Path(__file__).resolve().parents[1]


def browser() -> str | None:
    """The path of a Chromium of the machine's own."""
    named = os.environ.get("REPLAY_TEST_BROWSER")
    return named or next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def _no_browser() -> str | None:
    return None if browser() else "no Chromium found; install it, or name one with REPLAY_TEST_BROWSER"


def _no_proxy() -> str | None:
    proxy = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
    return (
        None
        if proxy.exists() and shutil.which("node")
        else "no configurable-http-proxy in node_modules; “make test” installs it"
    )


def _no_git_server() -> str | None:
    if shutil.which("git") is None:
        return "no git"
    folder = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    return None if (Path(folder) / "git-http-backend").exists() else "git has no http-backend here"


def _no_pages() -> str | None:
    pages, lab = "replay_build_service/web/static/dist", "replay_spawner/lab/labextensions/replay-session"
    made = (ROOT / pages / "launch.js", ROOT / lab / "session.js")
    return (
        None if all(script.exists() for script in made) else "the pages' scripts are not made; “make test” makes them"
    )


def _no_linux() -> str | None:
    return None if Path("/proc/self/limits").exists() else "limits are read from Linux's /proc"


def _no_r() -> str | None:
    return None if shutil.which("Rscript") else "no Rscript (Debian's package r-base-core)"


def _no_curl() -> str | None:
    return None if shutil.which("curl") else "no curl"


def _no_registry() -> str | None:
    return None if shutil.which("docker-registry") else "no docker-registry (Debian's package of that name)"


def _no_disk() -> str | None:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        return "a small disk is made as root with mkfs.ext4 (Debian: e2fsprogs)"
    return None if Path("/dev/loop-control").exists() else "no loop devices"


def _no_fuse() -> str | None:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "a file system in user space is mounted as root with /dev/fuse"
    return None


def _no_cluster() -> str | None:
    return why_no_engine() or (None if external_cluster() else why_no_cluster())


_CHECKS: dict[str, Callable[[], str | None]] = {
    "browser": _no_browser,
    "proxy": _no_proxy,
    "git-server": _no_git_server,
    "pages": _no_pages,
    "linux": _no_linux,
    "registry": _no_registry,
    "r": _no_r,
    "curl": _no_curl,
    "engine": why_no_engine,
    "disk": _no_disk,
    "fuse": _no_fuse,
    "cluster": _no_cluster,
    "cluster-control": why_no_control,
}
REQUIRED = frozenset(name for name in os.environ.get("REPLAY_TEST_REQUIRE", "").split(",") if name)
"""What this machine is to have: without it a test fails and is not skipped."""


def unknown_requirements() -> list[str]:
    """Names in ``REPLAY_TEST_REQUIRE`` that no check answers to."""
    return sorted(REQUIRED - _CHECKS.keys())


def known_requirements() -> list[str]:
    """All that a test can name in ``needs``."""
    return sorted(_CHECKS)


@cache
def missing(name: str) -> str | None:
    """Why ``name`` cannot be had here; none where it can. A name that nobody knows is an error."""
    return _CHECKS[name]()
