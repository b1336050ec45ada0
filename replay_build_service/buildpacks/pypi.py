"""`PyPIBuildPack`: what Debian and PyPI have, without conda, as repo2docker's buildpack.

repo2docker's own template makes the image: its user, entrypoint, labels, postBuild and start stay as they are. This
adds a virtual environment that uv fills, in layers by how often they change: what every session needs, the same for all
repositories; Debian packages and requirements of one repository, from those files alone; then its sources.

No cache is shared between builds: what a build can write there, a stranger's setup.py can, and so could plant packages
into everybody's images. Layers and a mirror near by serve as well and cannot be written to.
"""

# repo2docker wraps the methods that are overridden here in lru_cache, which pyright takes for variables.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from repo2docker.buildpacks.base import BaseImage
from repo2docker.engine import BuildError
from repo2docker.utils import R2dState

from replay_build_service.buildpacks import steps
from replay_build_service.buildpacks.repository import RepositoryRequest, Unbuildable, read_repository
from replay_build_service.buildpacks.settings import BuildSettings, UnfitSetting

_PRINTED = re.compile(r"#\d+ [\d.]+ ")
"""What BuildKit's plain progress puts before each line that a step prints: the step's number, and its seconds."""
_FOUND_PYTHON = re.compile(r"This image has Python [\w.+]{1,20}\.")
_LONGEST_REASON = 400


class PyPIBuildPack(BaseImage):
    """``apt.txt``, ``requirements.txt``, ``pyproject.toml``, ``setup.py``, ``runtime.txt``, ``postBuild``, ``start``.

    Named last in ``c.Repo2Docker.buildpacks`` and as ``c.Repo2Docker.default_buildpack``. The base image is any Debian
    or Ubuntu; what a site sets beside it is in `settings`.
    """

    settings: ClassVar[BuildSettings] = BuildSettings()

    def detect(self) -> Literal[True]:
        """Always: what this cannot build is refused with the reason, and not left to a stock buildpack with conda."""
        return True

    @cached_property
    def _asked(self) -> RepositoryRequest:
        """Of the checkout, in which repo2docker works. Raises `BuildError`."""
        try:
            return read_repository(Path.cwd())
        except Unbuildable as refusal:
            raise self._failed(str(refusal)) from None
        except OSError as error:
            raise self._failed(
                f"The repository's files could not be read: {error.strerror}. Try again later."
            ) from None

    def _failed(self, sentence: str) -> BuildError:
        """What is to be raised: repo2docker then ends with status 1, and the sentence is the last record of its log."""
        self.log.error(f"{sentence}\n", extra={"phase": R2dState.FAILED})
        return BuildError(sentence)

    def get_base_packages(self) -> set[str]:
        return super().get_base_packages() | set(self.settings.debian_packages)

    def get_build_env(self) -> list[tuple[str, str]]:
        return [
            *super().get_build_env(),
            ("NB_PYTHON_PREFIX", "${APP_BASE}/venv"),
            # Scripts that are written for the stock buildpacks name either.
            ("KERNEL_PYTHON_PREFIX", steps.ENVIRONMENT),
            ("VIRTUAL_ENV", steps.ENVIRONMENT),
        ]

    def get_path(self) -> list[str]:
        return [f"{steps.ENVIRONMENT}/bin"]

    def get_build_script_files(self) -> dict[str, str]:
        return {
            str(Path(__file__).with_name("profile.sh")): "/etc/profile.d/zz-environment.sh",
            str(Path(self.settings.session_lock).resolve()): steps.LOCK,
        }

    def get_build_scripts(self) -> list[tuple[str, str]]:
        asked = self._asked
        scripts = [
            ("root", steps.prepare_environment(self.settings)),
            ("${NB_USER}", steps.make_environment(self.settings)),
        ]
        if asked.python is not None:
            scripts.append(("${NB_USER}", steps.change_python(self.settings, asked.python)))
        # With what comes before the repository's files, or other requirements would install Debian's packages anew.
        if asked.debian_packages:
            scripts.append(("root", steps.install_debian_packages(asked.debian_packages)))
        return scripts

    def get_preassemble_script_files(self) -> dict[str, str]:
        return {name: name for name in self._asked.staged}

    def get_preassemble_scripts(self) -> list[tuple[str, str]]:
        files = self._asked.standing_alone
        if not files:
            return []
        return [("${NB_USER}", steps.install_packages(self.settings, files, steps.Failed.PACKAGES))]

    def get_assemble_scripts(self) -> list[tuple[str, str]]:
        asked = self._asked
        if not asked.needing_sources and asked.package is None:
            return []
        # All of it once more: what is there already stays, and nothing that comes now may contradict it.
        files = (*asked.standing_alone, *asked.needing_sources)
        status = steps.Failed.PACKAGES_WITH_SOURCES
        return [("${NB_USER}", steps.install_packages(self.settings, files, status, package=asked.package))]

    def get_post_build_scripts(self) -> list[str]:
        return [self._asked.post_build] if self._asked.post_build is not None else []

    def get_start_script(self) -> str | None:
        return f"${{REPO_DIR}}/{self._asked.start}" if self._asked.start is not None else None

    def render(self, build_args: dict[str, str] | None = None) -> str:
        """The Dockerfile. Raises `BuildError` for what cannot be built, and for settings that cannot be used."""
        try:
            self.settings.check()
            before = steps.trust_and_mirrors(self.settings)
        except (UnfitSetting, OSError) as error:
            why = str(error) if isinstance(error, UnfitSetting) else f"{error.strerror}."
            raise self._failed(f"This service's buildpack is not set up well: {why} Tell those who run it.") from None
        given = self.appendix
        self.appendix = f"{self._last_steps()}{given}"
        try:
            dockerfile: str = super().render(build_args)
        finally:
            self.appendix = given
        first = f"FROM {self.base_image}\n"
        head, found, rest = dockerfile.partition(first)
        if not found:
            raise self._failed(
                "This service's repo2docker is not the one that its buildpack knows. Tell those who run it."
            )
        return f"{head}{first}{before}{rest}"

    def _last_steps(self) -> str:
        last = f"RUN {steps.check_session()}\n" if self._asked.post_build is not None else ""
        if self.settings.certificates is not None and not self.settings.certificates_in_sessions:
            last += f"USER root\nRUN {steps.forget_certificates()}\nUSER ${{NB_USER}}\n"
        return last

    def build(
        self,
        client: Any,
        image_spec: str,
        memory_limit: int,
        build_args: dict[str, str],
        cache_from: list[str],
        extra_build_kwargs: dict[str, Any],
        platform: str | None = None,
    ) -> Generator[Any, None, None]:
        """As repo2docker's, but a failure is a sentence: its own names the command, with proxies' passwords in it."""
        log = _BuildLog()
        try:
            for line in cast(
                "Iterable[object]",
                super().build(client, image_spec, memory_limit, build_args, cache_from, extra_build_kwargs, platform),
            ):
                log.read(line)
                yield line
        except subprocess.CalledProcessError:
            raise self._failed(log.why_it_failed(self._asked)) from None


class _BuildLog:
    """What a build prints, read for why it failed.

    A stranger's scripts print too, and as much as they like: little of it is passed on, and no line takes long to read.
    """

    def __init__(self) -> None:
        self.command = ""
        self.status = 0
        self.python = ""
        self.reason = ""

    def read(self, line: object) -> None:
        if not isinstance(line, str):
            return
        if line.startswith("ERROR: "):
            failed, _, status = line.strip().rpartition('" did not complete successfully: exit code: ')
            if re.fullmatch(r"[0-9]{1,3}", status):
                self.command, self.status = failed.partition('process "/bin/sh -c ')[2], int(status)
        elif (step := _PRINTED.match(line)) is not None:
            printed = line[step.end() :].strip()
            if _FOUND_PYTHON.fullmatch(printed):
                self.python = printed
            self.reason = _reason_of_uv(printed) or self.reason

    def why_it_failed(self, asked: RepositoryRequest) -> str:
        if asked.post_build is not None and self.command == f"./{asked.post_build}":
            hint = (
                " Its lines end as on Windows: save it with Unix line ends."
                if asked.post_build_has_windows_lines
                else ""
            )
            return f"{asked.post_build} failed with status {self.status}. The end of the log shows what it said.{hint}"
        try:
            failed = steps.Failed(self.status)
        except ValueError:
            return "The image could not be built. The end of the log says why."
        why = f": {self.reason}." if self.reason else ". The end of the log says why."
        match failed:
            case steps.Failed.SESSION_PACKAGES:
                return (
                    "The packages that every session needs could not be installed; the end of the log says why. "
                    "Try again later, and tell those who run this service if it stays so."
                )
            case steps.Failed.PYTHON:
                wish = asked.python.wording if asked.python is not None else "An environment takes Python 3.10 or later"
                return f"{wish}, which cannot be had here. {self.python} Ask for another.".replace("  ", " ")
            case steps.Failed.SESSION_PACKAGES_OF_PYTHON:
                wish = asked.python.wording if asked.python is not None else "The repository asks for another Python"
                return f"{wish}, but the packages that every session needs could not be installed for it{why}"
            case steps.Failed.DEBIAN_PACKAGES:
                return "The Debian packages of apt.txt could not be installed. The end of the log says why."
            case steps.Failed.PACKAGES:
                return f"{_packages(asked.standing_alone)} could not be installed{why}"
            case steps.Failed.PACKAGES_WITH_SOURCES:
                files = (*asked.standing_alone, *asked.needing_sources)
                return f"{_packages(files, asked.package)} could not be installed{why}"
            case steps.Failed.SESSION:
                return (
                    "With this repository's packages jupyterhub-singleuser does not work, so no session would start; the "
                    "end of the log says why. Allow other versions of jupyterhub and of what it needs."
                )


def _packages(files: Sequence[str], package: str | None = None) -> str:
    named = list(files)
    if package is not None:
        named.append("the project itself" if package == "." else f"the project in {package}")
    return f"The packages of {' and '.join(named)}"


def _reason_of_uv(line: str) -> str:
    """What uv gives as its reason in that line; empty where it gives none."""
    before, _, after = line.rpartition(", we can conclude that your requirements are unsatisfiable")
    if before and after in ("", "."):
        reason = before.removeprefix("cause: ").removeprefix("And ")
        reason = reason[len("because ") :] if reason[:8].lower() == "because " else reason
    elif line.startswith("error: "):
        reason = line.removeprefix("error: ").rstrip(".")
    else:
        return ""
    return "".join(filter(str.isprintable, reason[:_LONGEST_REASON]))
