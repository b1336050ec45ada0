"""What a repository asks of a Debian image with a Python environment, read from its files and nothing else.

The rules are repo2docker's (https://repo2docker.readthedocs.io/en/latest/configuration/). The files are untrusted: each
that is read lies within the checkout, whatever links it holds, and all that is returned is either the name of a file
that repo2docker knows or of a form that a Dockerfile and its shell take for nothing but a word.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

_CONFIGURATION_FOLDERS = ("binder", ".binder")
_LONGEST_TEXT = 1024 * 1024

_OTHER_BUILDPACKS = {
    "Dockerfile": "a container image of its own",
    **dict.fromkeys(("environment.yml", "environment.yaml"), "conda packages"),
    **dict.fromkeys(("conda-lock.yml", "conda-lock.yaml", "conda-linux-64.lock"), "conda packages"),
    **dict.fromkeys(("Project.toml", "JuliaProject.toml", "REQUIRE"), "Julia packages"),
    **dict.fromkeys(("Pipfile", "Pipfile.lock"), "packages by Pipenv"),
    "install.R": "R packages",
    "default.nix": "Nix packages",
}
"""Stock repo2docker lets each of them decide, whatever lies beside it: to pass it over would build something else."""

_DEBIAN_PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?::[a-z0-9][a-z0-9-]*)?(?:=[A-Za-z0-9.+:~*-]+|/[a-z0-9-]+)?"
)
"""Debian Policy 5.6.1, with apt-get's architecture, version and release. One that ends with ``-`` would be removed."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
"""Paths that ``COPY`` reads as they are: no pattern, variable, quote or space."""

_PLAIN_SPECIFIERS = re.compile(r"[0-9a-z.*!<>=~,]{0,200}")
"""Less than PEP 440 takes: after “===” comes what one likes."""

_INCLUDE = re.compile(r"(?:-[rc]\s*|--(?:requirement|constraint)s?(?:\s+|\s*=\s*))(\S.*)")
_WITHOUT_FILES = re.compile(
    r"--pre|--prefer-binary|--no-index|--require-hashes|--(?:no-binary|only-binary|trusted-host)[ =]\s*[\w.:,-]+"
    r"|(?:-i|-f|--index-url|--extra-index-url|--find-links)[ =]\s*https?://[^\s$]+"
)
_ARCHIVE = re.compile(r"\.(?:whl|zip|tgz|tar\.\w+)$")
"""Installers take a name like this for a file's."""

_DISTANT = re.compile(r"(?:(?:git|hg|svn|bzr)\+)?https?://[^\s$]+|(?:git|hg)\+ssh://[^\s$]+")


class Unbuildable(Exception):
    """The repository cannot be built here. The message is a sentence for who wrote it."""


@dataclass(frozen=True, slots=True)
class PythonWish:
    """Which Pythons will do."""

    specifiers: str
    """PEP 440, normalised: ``==3.12.*``."""
    wording: str
    """Where it is said, and what: ``runtime.txt asks for Python 3.12``."""


@dataclass(frozen=True, slots=True)
class RepositoryRequest:
    """All paths are relative to the checkout."""

    debian_packages: tuple[str, ...] = ()
    python: PythonWish | None = None
    standing_alone: tuple[str, ...] = ()
    """For ``--requirements``, installable with nothing of the repository but `staged`."""
    staged: tuple[str, ...] = ()
    """Those files and all that they include; none is reached through a link."""
    needing_sources: tuple[str, ...] = ()
    """For ``--requirements``, installable once the whole repository is there."""
    package: str | None = None
    """The folder of a project to install itself."""
    post_build: str | None = None
    post_build_has_windows_lines: bool = False
    start: str | None = None


def read_repository(root: Path) -> RepositoryRequest:
    """What the checkout at ``root`` asks for. Raises `Unbuildable`, and `OSError` where the disk fails."""
    return _Reader(root.resolve()).read()


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in _CONFIGURATION_FOLDERS:
            self.path(name)
        present = [name for name in _CONFIGURATION_FOLDERS if (root / name).is_dir()]
        if len(present) > 1:
            raise Unbuildable("The repository has both a binder and a .binder folder. Keep one of them.")
        self.folder = present[0] if present else ""

    def read(self) -> RepositoryRequest:
        self.refuse_others()
        files, package, required = self.project()
        if self.has("requirements.txt"):
            files.insert(0, self.name("requirements.txt"))
        alone: list[str] = []
        staged: set[str] = set()
        distant: list[str] = []
        for file in files:
            needed = self.needed_by(file)
            if needed is None:
                distant.append(file)
            else:
                alone.append(file)
                staged |= needed
        post_build = self.name("postBuild") if self.has("postBuild") else None
        start = self.name("start") if self.has("start") else None
        request = RepositoryRequest(
            debian_packages=self.debian_packages(),
            python=_both(self.runtime(), required),
            standing_alone=tuple(alone),
            staged=tuple(sorted(staged)),
            needing_sources=tuple(distant),
            package=package,
            post_build=post_build,
            post_build_has_windows_lines=post_build is not None and self.has_windows_lines(post_build),
            start=start,
        )
        self.refuse_left_out([*staged, *distant, *(name for name in (post_build, start) if name is not None)])
        return request

    def name(self, file: str) -> str:
        return f"{self.folder}/{file}" if self.folder else file

    def path(self, name: str) -> Path:
        """Refuses what leads out of the checkout."""
        path = self.root / name
        try:
            target = path.resolve()
        except RuntimeError as error:  # a loop of links, up to Python 3.12
            raise Unbuildable(f"{name} is a link that leads to itself. Add the file itself.") from error
        if not target.is_relative_to(self.root):
            raise Unbuildable(
                f"{name} leads out of the repository, so it is not read. Put the file into the repository."
            )
        return path

    def has(self, file: str) -> bool:
        path = self.path(self.name(file))
        if path.is_symlink() and not path.exists():
            raise Unbuildable(
                f"{self.name(file)} is a link to a file that is not in the repository. Add the file itself."
            )
        return path.is_file()

    def text(self, name: str) -> str:
        with self.path(name).open("rb") as file:
            data = file.read(_LONGEST_TEXT + 1)
        if len(data) > _LONGEST_TEXT:
            raise Unbuildable(f"{_shown(name)} is too long: at most 1 MB of it is read. Shorten it.")
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Unbuildable(f"{_shown(name)} is UTF-16, as PowerShell writes it. Save it as UTF-8.")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise Unbuildable(f"{_shown(name)} is not UTF-8 text in line {line}. Save it as UTF-8.") from error

    def refuse_others(self) -> None:
        for file, what in _OTHER_BUILDPACKS.items():
            if self.has(file):
                raise Unbuildable(
                    f"{self.name(file)} asks for {what}, but images are made of Debian's and PyPI's packages here. "
                    f"Name what you need in apt.txt and requirements.txt and remove {self.name(file)}, or use a service "
                    "that builds with all of repo2docker's buildpacks."
                )
        if not self.folder and self.has("DESCRIPTION") and re.search(r"(?m)^Package:", self.text("DESCRIPTION")):
            raise Unbuildable(
                "DESCRIPTION makes this an R package, but images are made of Debian's and PyPI's packages here. "
                "Use a service that builds with all of repo2docker's buildpacks."
            )

    def refuse_left_out(self, needed: Sequence[str]) -> None:
        """repo2docker copies nothing that an ignore file names; what it then says of the missing file helps nobody."""
        ignoring = [file for file in (".dockerignore", ".containerignore") if self.has(file)]
        if not ignoring:
            return
        lines = (line.strip() for file in ignoring for line in self.text(self.name(file)).splitlines())
        kept: set[str] = exclude_paths(str(self.root), [line for line in lines if line and not line.startswith("#")])
        for name in needed:
            if name not in kept:
                raise Unbuildable(
                    f"{name} does not come into the image, for {self.name(ignoring[0])} leaves it out. Keep it in."
                )

    def debian_packages(self) -> tuple[str, ...]:
        if not self.has("apt.txt"):
            return ()
        name = self.name("apt.txt")
        wanted = [word for line in self.text(name).splitlines() for word in line.partition("#")[0].split()]
        for word in wanted:
            if _DEBIAN_PACKAGE.fullmatch(word) is None:
                raise Unbuildable(f"{name} has “{_shown(word)}”, which is no name of a Debian package. Correct it.")
        return tuple(sorted(set(wanted)))

    def runtime(self) -> PythonWish | None:
        if not self.has("runtime.txt"):
            return None
        name = self.name("runtime.txt")
        wanted = next(_statements(self.text(name)), None)
        if wanted is None:
            return None
        language, _, version = wanted.partition("-")
        if language != "python":
            raise Unbuildable(
                f"{name} asks for “{_shown(wanted)}”. Only Python can be had here: write python-3.12, for example."
            )
        if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", version) is None:
            raise Unbuildable(f"{name} says “{_shown(wanted)}”. It should name a version, like python-3.12.")
        exact = version.count(".") == 2
        return PythonWish(f"=={version}" if exact else f"=={version}.*", f"{name} asks for Python {version}")

    def project(self) -> tuple[list[str], str | None, PythonWish | None]:
        """The project's file where its dependencies can be read of it; its folder where it is to be installed."""
        folder = self.folder or "."
        has_setup = self.has("setup.py")
        if not self.has("pyproject.toml"):
            return [], folder if has_setup else None, None
        name = self.name("pyproject.toml")
        content = self.toml(name)
        project = content.get("project")
        installed = folder if has_setup or "build-system" in content else None
        if not isinstance(project, dict):
            return [], installed, None
        described = cast("dict[str, Any]", project)
        dynamic = described.get("dynamic")
        is_static = not (isinstance(dynamic, list) and "dependencies" in dynamic)
        # An installed project brings its dependencies anyway; they are read of its file where that is sooner.
        wanted = [name] if installed is None or (is_static and self.needed_by(name) is not None) else []
        return wanted, installed, _requires_python(described, name)

    def toml(self, name: str) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text(name))
        except (ValueError, RecursionError) as error:  # Numbers and levels beyond Python's limits, too.
            raise Unbuildable(f"{name} is not valid TOML: {_shown(str(error))}. Correct it.") from error

    def needed_by(self, name: str) -> set[str] | None:
        """All files that installing this one takes, where that can be told and each can be copied by its name."""
        if name != self.name("pyproject.toml"):
            needed: set[str] = set()
            return needed if self.follow(name, needed, set()) else None
        described = cast("dict[str, Any]", self.toml(name).get("project", {}))
        dynamic = described.get("dynamic", [])
        dependencies = described.get("dependencies", [])
        if not isinstance(dependencies, list) or not isinstance(dynamic, list) or "dependencies" in dynamic:
            return None
        lines = (str(line) for line in cast("list[object]", dependencies))
        plain = self.plain_name(name)
        return {plain} if plain is not None and all(map(_stands_alone, lines)) else None

    def follow(self, name: str, needed: set[str], seen: set[Path]) -> bool:
        """Whether a requirements file and all that it includes stand alone. All are followed, for the refusals' sake."""
        plain = self.plain_name(name)
        path = self.path(name).resolve()
        if path in seen:
            return plain in needed
        seen.add(path)
        alone = plain is not None
        needed.add(plain or name)
        for line in _statements(self.text(name)):
            include = _INCLUDE.match(line)
            if include is None:
                alone = _stands_alone(line) and alone
                continue
            included = include[1].strip("\"'")
            if "://" in included:
                alone = _DISTANT.fullmatch(included) is not None and alone
            else:
                # As installers do: from the folder of the file by the name that it was called by.
                alone = self.follow(self.included(name, included), needed, seen) and alone
        return alone

    def included(self, name: str, included: str) -> str:
        target = os.path.join(os.path.dirname(name), included)
        try:
            is_inside = (self.root / target).resolve().is_relative_to(self.root) and not os.path.isabs(included)
            is_there = (self.root / target).is_file()
        except (OSError, RuntimeError, ValueError):  # names that no file can have, and loops of links
            is_inside, is_there = True, False
        if is_inside and is_there:
            return target
        why = "there" if is_inside else "in the repository"
        raise Unbuildable(
            f"{_shown(name)} includes {_shown(included)}, which is not {why}. Add that file, or leave it out."
        )

    def plain_name(self, name: str) -> str | None:
        """What the file can be copied as. None is reached through a link, which its copy would be in the way of."""
        plain = os.path.normpath(name)
        is_linked = (self.root / name).resolve() != self.root / plain
        return plain if _PLAIN_PATH.fullmatch(plain) is not None and not is_linked else None

    def has_windows_lines(self, name: str) -> bool:
        with self.path(name).open("rb") as file:
            return file.readline(200).endswith(b"\r\n")


def _statements(text: str) -> Iterator[str]:
    """The lines that say something, without comments, and with those that a backslash continues made one."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if stripped := re.sub(r"(^|\s)#.*", "", line).strip():
            yield stripped


def _stands_alone(line: str) -> bool:
    """Whether a line of a requirements file can be installed without the repository. In doubt it cannot."""
    if "${" in line:
        return False
    if line.startswith("-"):
        return _WITHOUT_FILES.fullmatch(line) is not None
    wanted = re.split(r"\s--?[a-z]", line)[0].strip()
    if _DISTANT.fullmatch(wanted.partition(" ;")[0].strip()) is not None:
        return True
    try:
        requirement = Requirement(wanted)
    except (ValueError, RecursionError):
        return False
    url = requirement.url
    return _ARCHIVE.search(requirement.name) is None if url is None else _DISTANT.fullmatch(url) is not None


def _requires_python(project: dict[str, Any], name: str) -> PythonWish | None:
    wanted = project.get("requires-python")
    if wanted is None:
        return None
    try:
        specifiers = str(SpecifierSet(str(wanted)))
    except ValueError:
        specifiers = " "
    if _PLAIN_SPECIFIERS.fullmatch(specifiers) is None:
        raise Unbuildable(
            f"{name} says requires-python “{_shown(str(wanted))}”, which is no version. It should read like >=3.11."
        )
    return PythonWish(specifiers, f"{name} asks for Python {specifiers}") if specifiers else None


def _both(runtime: PythonWish | None, required: PythonWish | None) -> PythonWish | None:
    if runtime is None or required is None:
        return runtime or required
    return PythonWish(f"{runtime.specifiers},{required.specifiers}", f"{runtime.wording}, and {required.wording}")


def _shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else "�" for character in text)
    return printable if len(printable) <= 60 else printable[:59] + "…"
