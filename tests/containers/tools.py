"""Where the programs of a container engine are: the machine's own, or unpacked once from Debian's packages.

Debian 12's engine is too old for a build's limits and it has no buildx, so both come from the next release's packages,
unpacked into a cache that a machine may keep. `needs("engine")` says why they cannot be had.
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

CACHE = Path(os.environ.get("REPLAY_TEST_CACHE", Path.home() / ".cache" / "replay-tests"))
_PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "containerd")
_RELEASE = "trixie"
_FROM_DEBIAN = ("runc", "iptables", "mmdebstrap", "ip", "docker-registry", "apt-get", "dpkg")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def why_no_engine() -> str | None:
    """Why an engine cannot be started here; none where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "an engine of the tests' own is started as root on Linux"
    missing = [name for name in _FROM_DEBIAN if _found(name) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: apt install docker.io docker-registry mmdebstrap iptables iproute2)"
    return None if _KEYRING.exists() else f"no {_KEYRING}, by which Debian's packages are checked"


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def mirror() -> str:
    """The Debian mirror that this machine is configured with."""
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return next(line for line in told.splitlines() if line.rstrip("/").endswith("/debian"))


@cache
def engine_root() -> Path:
    """The folder with ``usr/bin``, ``usr/sbin`` and ``usr/libexec`` of the engine's programs."""
    root = CACHE / f"engine-{_RELEASE}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "usr/sbin/dockerd").exists():
            _unpack(root)
    return root


def _unpack(root: Path) -> None:
    """Asks apt with lists, sources and caches of our own, so that the machine's stay as they are."""
    apt = CACHE / "apt"
    for folder in ("lists/partial", "archives/partial", "parts", "packages"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror()} {_RELEASE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={apt}/sources.list", f"-oDir::Etc::sourceparts={apt}/parts",
        f"-oDir::State::lists={apt}/lists", f"-oDir::Cache::archives={apt}/archives", "-oAPT::Sandbox::User=root", "-qq",
    ]  # fmt: skip
    subprocess.run(("apt-get", *options, "update"), check=True)
    subprocess.run(("apt-get", *options, "download", *_PACKAGES), check=True, cwd=apt / "packages")
    unpacked = root.with_name(f"{root.name}.part")
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in (apt / "packages").glob("*.deb"):
        subprocess.run(("dpkg", "-x", str(package), str(unpacked)), check=True)
    unpacked.rename(root)
    shutil.rmtree(apt)


def base_image_archive() -> Path:
    """A small Debian with Python, made once, as a file for ``docker import``; with this machine's own authorities."""
    authorities = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    packages = "ca-certificates,python3,python3-venv,git,locales"
    made_from = hashlib.sha256(packages.encode() + b"".join(file.read_bytes() for file in authorities)).hexdigest()
    archive = CACHE / f"base-{made_from[:12]}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make_base_image(archive, packages)
    return archive


def _make_base_image(archive: Path, packages: str) -> None:
    part = archive.with_name(f"part-{archive.name}")
    trust = (
        'mkdir -p "$1"/usr/local/share/ca-certificates; '
        'cp /usr/local/share/ca-certificates/*.crt "$1"/usr/local/share/ca-certificates/ 2>/dev/null; '
        'chroot "$1" update-ca-certificates >/dev/null 2>&1'
    )
    smaller = [f"path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    command = (
        "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--include={packages}",
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt={option}" for option in [*smaller, "force-unsafe-io"]),
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin', f"--customize-hook={trust}",
        "bookworm", str(part), mirror(),
    )  # fmt: skip
    subprocess.run(command, check=True)
    part.rename(archive)


def build_variables() -> dict[str, str]:
    """What builds need to know of this machine's network: its authorities, mirrors and proxies, as institutions have them."""
    wanted = re.compile(r"(https?|no|all)_proxy|SSL_CERT_FILE|PIP_INDEX_URL|UV_(DEFAULT_)?INDEX(_URL)?", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if wanted.fullmatch(name)}
