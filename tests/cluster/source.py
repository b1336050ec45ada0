"""How the programs of Kubernetes are made from Debian's source package. A change of this file makes them anew.

Debian has no newer server than 1.20, and of that only the client as a package. What is found here is needed with the Go
compiler of the same Debian release, offline: the source package brings all that Kubernetes is made of.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.containers.tools import mirror

RELEASE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
REFLECT2 = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")
"""Debian's package golang-github-modern-go-reflect2-dev."""

_PACKAGE = "k8s.io/kubernetes"


def make_programs(version: str, folder: Path) -> None:
    """Put `PROGRAMS` and ``pause`` into ``folder/bin``; all else below ``folder`` may be removed after.

    ``version`` is Debian's, of the source package. Raises `subprocess.CalledProcessError` with what failed on stderr.
    """
    source = _unpacked(version, folder)
    _take_newer_reflect2(source)
    programs = folder / "bin"
    programs.mkdir()
    environment = _go_environment(folder)
    _generate_api_description(source, folder, environment)
    flags = f"-s -w {' '.join(f'-X {name}={value}' for name, value in _told_version(version).items())}"
    for program in PROGRAMS:
        _run(
            "go",
            "build",
            "-ldflags",
            flags,
            "-o",
            str(programs / program),
            f"./cmd/{program}",
            at=source,
            **environment,
        )
    pause = source / "build" / "pause" / "linux" / "pause.c"
    _run("gcc", "-Os", "-s", "-static", "-DVERSION=3", "-o", str(programs / "pause"), str(pause), at=source)


def _run(*command: str, at: Path, **environment: str) -> str:
    """Standard output. It stays behind what else the machine does."""
    done = subprocess.run(
        ("nice", *command), cwd=at, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def _unpacked(version: str, folder: Path) -> Path:
    """The source tree, where Go without modules looks for it.

    Asks apt with lists, sources and caches of our own, so that the machine's stay as they are.
    """
    apt = folder / "apt"
    for needed in ("lists/partial", "archives/partial", "parts"):
        (apt / needed).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirror()} {RELEASE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={apt}/sources.list", f"-oDir::Etc::sourceparts={apt}/parts",
        f"-oDir::State::lists={apt}/lists", f"-oDir::Cache={apt}", "-oAPT::Sandbox::User=root", "-qq",
    ]  # fmt: skip
    _run("apt-get", *options, "update", at=apt)
    _run("apt-get", *options, "source", "--download-only", f"kubernetes={version}", at=apt)
    (description,) = apt.glob("kubernetes_*.dsc")
    tree = folder / "go" / "src" / _PACKAGE
    tree.parent.mkdir(parents=True)
    _run("dpkg-source", "--no-check", "-x", str(description), str(tree), at=apt)  # apt has checked it
    return tree


def _take_newer_reflect2(source: Path) -> None:
    """The version of reflect2 in the source reads Go's maps in a way that ends a program since Go 1.18; Debian has a newer."""
    vendored = source / "vendor" / "github.com" / "modern-go" / "reflect2"
    for file in vendored.glob("*.go"):
        file.unlink()
    for file in REFLECT2.glob("*.go"):
        shutil.copy(file, vendored)


def _go_environment(folder: Path) -> Mapping[str, str]:
    return {
        "GOPATH": str(folder / "go"),
        "GOCACHE": str(folder / "go-cache"),
        "GOENV": "off",
        "GOFLAGS": "",
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
    }


def _generate_api_description(source: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Writes the one generated file that the source package lacks: the OpenAPI description, as Go."""
    generator = str(folder / "openapi-gen")
    _run(
        "go", "build", "-o", generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen",
        at=source, **environment,
    )  # fmt: skip
    _run(
        generator, "--logtostderr", "-i", ",".join(_described_packages(source)),
        "-p", f"{_PACKAGE}/pkg/generated/openapi", "-O", "zz_generated.openapi",
        "-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", str(folder / "violations"),
        at=source, **environment,
    )  # fmt: skip


def _described_packages(source: Path) -> list[str]:
    """Those with a file that asks for it; what is staged for other repositories goes by its name below ``vendor``."""
    left_out = re.compile(r"/(code-generator|sample-apiserver|testdata|_examples)/|^pkg/generated/")
    found: set[str] = set()
    for top in ("pkg", "cmd", "plugin", "staging/src/k8s.io"):
        for file in (source / top).rglob("*.go"):
            name = file.relative_to(source).as_posix()
            if not left_out.search(name) and b"+k8s:openapi-gen=" in file.read_bytes():
                folder = file.parent.relative_to(source).as_posix()
                found.add(f"{_PACKAGE}/{folder.replace('staging/src/', 'vendor/', 1)}")
    return sorted(found)


def upstream_version(version: str) -> str:
    """``1.20.2`` of ``1.20.5+really1.20.2-1.1+deb12u1``."""
    found = re.match(r"(?:.*\+really)?([0-9]+\.[0-9]+\.[0-9]+)", version)
    if found is None:
        raise ValueError(f"{version} is no version of Kubernetes in Debian.")
    return found[1]


def _told_version(version: str) -> Mapping[str, str]:
    """What the programs say they are; clients and the server's own checks read it."""
    number = upstream_version(version)
    major, minor, _ = number.split(".")
    told = {"gitVersion": f"v{number}", "gitMajor": major, "gitMinor": minor}
    packages = ("component-base/version", "client-go/pkg/version")
    return {f"{_PACKAGE}/vendor/k8s.io/{package}.{name}": value for package in packages for name, value in told.items()}
