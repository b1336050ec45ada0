"""What a checkout asks for, read from its files and nothing else: no process, no network, no change.

The rules are repo2docker's (https://repo2docker.readthedocs.io/en/latest/configuration/), so that a repository means
the same here as elsewhere; what an environment of Python packages cannot give is refused by the name of the file.
Every file that is read lies within the checkout, whatever links it holds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.trees import is_deeper
from replay_build_service.domain import FailureReason

_CONFIGURATION_FOLDERS = ("binder", ".binder")

_MUCH_TEXT = 1024 * 1024
"""Bytes. No requirements that people write are longer."""

_MAX_LEVELS = 100
"""Folders within folders. People's trees have a dozen; what copies or removes a far deeper one may fail at it."""

_OTHER_ENGINES = {
    "Dockerfile": "a container image of its own",
    "environment.yml": "conda packages",
    "environment.yaml": "conda packages",
    "conda-lock.yml": "conda packages",
    "conda-lock.yaml": "conda packages",
    "conda-linux-64.lock": "conda packages",
    "Project.toml": "Julia packages",
    "JuliaProject.toml": "Julia packages",
    "REQUIRE": "Julia packages",
    "default.nix": "Nix packages",
    "install.R": "R packages",
    "Pipfile": "packages by Pipenv",
    "Pipfile.lock": "packages by Pipenv",
    "start": "a start script of its own",
}
"""Each replaces or accompanies the Python environment in repo2docker, so leaving it aside would build something else."""


@dataclass(frozen=True, slots=True)
class PythonRequest:
    """Which interpreters will do."""

    specifiers: SpecifierSet
    wording: str
    """As the repository has it, with the file's name: ``python-3.11 (runtime.txt)``."""


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """What an environment needs to hold. All paths are relative to the checkout."""

    requirement_files: tuple[str, ...] = ()
    """For ``-r``: a requirements.txt, or a pyproject.toml of which only the dependencies are installed."""
    packages: tuple[str, ...] = ()
    """Folders of projects to install themselves."""
    python: PythonRequest | None = None
    """``None``: any will do."""
    post_build: str | None = None


def read_checkout(root: Path) -> EnvironmentRequest:
    """What the checkout at ``root`` asks for. An empty request where it says nothing.

    Raises `Unbuildable`, and `OSError` where the disk fails.
    """
    check_depth(root)
    return _Reader(root.resolve()).read()


def check_depth(root: Path) -> None:
    """That sessions can copy the checkout at ``root``. Raises `Unbuildable`, and `OSError` where the disk fails."""
    if is_deeper(root, _MAX_LEVELS):
        raise _cannot(
            f"The repository's folders lie in each other more than {_MAX_LEVELS} levels deep, which cannot be built here. "
            "Make its tree of folders flatter."
        )


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = self._configuration_folder()

    def read(self) -> EnvironmentRequest:
        self._refuse_other_engines()
        runtime = self._runtime()
        requirements = self._name("requirements.txt") if self._has("requirements.txt") else None
        if requirements is not None:
            self._check_requirements(requirements, seen=set())
        files, packages, required = self._project()
        if requirements is not None:
            # repo2docker reads the dependencies of a project only by installing it.
            files = (requirements,)
        return EnvironmentRequest(files, packages, _agreed(runtime, required), self._post_build())

    def _configuration_folder(self) -> str:
        present = [name for name in _CONFIGURATION_FOLDERS if (self.root / name).is_dir()]
        if len(present) > 1:
            raise _cannot("The repository has both a binder and a .binder folder. Only one of them may be there.")
        for name in _CONFIGURATION_FOLDERS:
            self._inside(name)
        return present[0] if present else ""

    def _name(self, file: str) -> str:
        return f"{self.folder}/{file}" if self.folder else file

    def _has(self, file: str) -> bool:
        """Whether the configuration has that file. Refuses one that is a link to nowhere or out of the repository."""
        path = self._inside(self._name(file))
        if path.is_symlink() and not path.exists():
            raise _cannot(f"{self._name(file)} is a link to a file that is not in the repository. Add the file itself.")
        return path.is_file()

    def _inside(self, name: str) -> Path:
        """The path of a file by its name relative to the root, which lies within the checkout even after all its links."""
        path = self.root / name
        try:
            target = path.resolve()
        except RuntimeError as error:  # a loop of links, up to Python 3.12
            raise _cannot(f"{name} is a link that leads to itself.") from error
        if not target.is_relative_to(self.root):
            raise _cannot(f"{name} leads out of the repository, so it is not read. Put the file into the repository.")
        return path

    def _text(self, name: str) -> str:
        data = self._inside(name).read_bytes()
        if len(data) > _MUCH_TEXT:
            raise Unbuildable(FailureReason.DEPENDENCIES, f"{name} is {len(data):,} bytes long; at most 1 MB is read.")
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _unreadable(name, "it is UTF-16, as PowerShell writes it")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise _unreadable(name, f"line {line} has a byte that UTF-8 does not have") from error

    def _refuse_other_engines(self) -> None:
        for file, what in _OTHER_ENGINES.items():
            if self._has(file):
                raise _cannot(
                    f"{self._name(file)} asks for {what}, which cannot be built here: this service makes environments of "
                    "Python packages only. Describe them in requirements.txt, or ask for a service with containers."
                )
        if self._has("apt.txt") and (package := next(_statements(self._text(self._name("apt.txt"))), None)):
            raise _cannot(
                f"{self._name('apt.txt')} asks for system packages ({_short(package)}), which cannot be installed here: "
                "this service makes environments of Python packages only."
            )
        if not self.folder and self._has("DESCRIPTION") and re.search(r"(?m)^Package:", self._text("DESCRIPTION")):
            raise _cannot(
                "DESCRIPTION makes this an R package, which cannot be built here: there are Python packages only."
            )

    def _runtime(self) -> PythonRequest | None:
        if not self._has("runtime.txt"):
            return None
        name = self._name("runtime.txt")
        wanted = next(_statements(self._text(name)), None)
        if wanted is None:
            return None
        language, _, version = wanted.partition("-")
        if language != "python":
            raise _cannot(f"{name} asks for “{_short(wanted)}”. Only Python can be had here, spelled like python-3.12.")
        if re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,2}", version) is None:
            raise Unbuildable(
                FailureReason.PYTHON, f"{name} says “{_short(wanted)}”. It should name a version, like python-3.12."
            )
        exact = version.count(".") == 2
        return PythonRequest(SpecifierSet(f"=={version}" if exact else f"=={version}.*"), f"{wanted} ({name})")

    def _project(self) -> tuple[tuple[str, ...], tuple[str, ...], PythonRequest | None]:
        """Requirement files, packages to install, and the Python that a project of the configuration folder wants."""
        package = (self.folder or ".",)
        if not self._has("pyproject.toml"):
            return (), package if self._has("setup.py") else (), None
        name = self._name("pyproject.toml")
        try:
            content = tomllib.loads(self._text(name))
        except tomllib.TOMLDecodeError as error:
            raise Unbuildable(FailureReason.DEPENDENCIES, f"{name} is not valid TOML: {error}.") from error
        project = content.get("project")
        required = _requires_python(cast("dict[str, Any]", project), name) if isinstance(project, dict) else None
        if "build-system" in content or self._has("setup.py"):
            return (), package, required
        return (name,) if isinstance(project, dict) else (), (), required

    def _check_requirements(self, name: str, seen: set[str]) -> None:
        """That the file and all that it includes can be read and lie in the checkout, so that uv reads nothing else."""
        if name in seen:
            return
        seen.add(name)
        for line in _statements(self._text(name)):
            included = re.match(r"(?:-r|-c|--requirements?|--constraints?)(?:\s*=\s*|\s+|(?<=^-[rc]))(\S+)", line)
            if included is None or "://" in included[1]:
                continue
            path = self.root / name
            other = str((path.parent / included[1].strip("\"'")).resolve())
            if not Path(other).is_relative_to(self.root):
                raise _cannot(f"{name} includes {_short(included[1])}, which is not in the repository.")
            if not Path(other).is_file():
                raise Unbuildable(
                    FailureReason.DEPENDENCIES, f"{name} includes {_short(included[1])}, which is not there."
                )
            self._check_requirements(str(Path(other).relative_to(self.root)), seen)

    def _post_build(self) -> str | None:
        return self._name("postBuild") if self._has("postBuild") else None


def _requires_python(project: dict[str, Any], name: str) -> PythonRequest | None:
    wanted = project.get("requires-python")
    if wanted is None:
        return None
    try:
        return PythonRequest(SpecifierSet(str(wanted)), f"requires-python {_short(str(wanted))} ({name})")
    except InvalidSpecifier as error:
        raise Unbuildable(
            FailureReason.PYTHON,
            f"{name} says requires-python “{_short(str(wanted))}”, which is no version. It should read like >=3.11.",
        ) from error


def _agreed(runtime: PythonRequest | None, required: PythonRequest | None) -> PythonRequest | None:
    if runtime is None or required is None:
        return runtime or required
    return PythonRequest(runtime.specifiers & required.specifiers, f"{runtime.wording} and {required.wording}")


def _statements(text: str) -> Iterator[str]:
    """The lines that say something, without comments."""
    for line in text.splitlines():
        if stripped := re.sub(r"(^|\s)#.*", "", line).strip():
            yield stripped


def _short(text: str) -> str:
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def _cannot(message: str) -> Unbuildable:
    return Unbuildable(FailureReason.CANNOT_BUILD, message)


def _unreadable(name: str, why: str) -> Unbuildable:
    return Unbuildable(FailureReason.DEPENDENCIES, f"{name} is not UTF-8 text: {why}. Save it as UTF-8.")
