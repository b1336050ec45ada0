"""Which Python an environment gets, of those that are on this machine. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from replay_build_service.builders.venv.repository_files import PythonRequest


@dataclass(frozen=True, slots=True)
class Interpreter:
    version: Version
    path: str


def parse_interpreters(output: str) -> tuple[Interpreter, ...]:
    """The CPythons of ``uv python list --only-installed --output-format json``, one for each version, newest first.

    Raises `ValueError` for what is not such a list.
    """
    found: dict[Version, Interpreter] = {}
    for entry in cast("list[dict[str, Any]]", json.loads(output)):
        try:
            version, path = Version(str(entry["version"])), entry["path"]
        except (KeyError, TypeError, InvalidVersion):
            continue
        if entry.get("implementation") == "cpython" and entry.get("variant", "default") == "default" and path:
            found.setdefault(version, Interpreter(version, str(path)))
    return tuple(sorted(found.values(), key=lambda interpreter: interpreter.version, reverse=True))


def choose_interpreter(
    request: PythonRequest | None, installed: Sequence[Interpreter], default: str
) -> Interpreter | None:
    """The newest of the default minor version where that will do, else the newest final release that will.

    A repository that asks for nothing gets the default version and no other. ``None`` where there is none.
    """
    usual = SpecifierSet(_release(default))
    wanted = usual if request is None else request.specifiers
    suited = [interpreter for interpreter in installed if wanted.contains(interpreter.version, prereleases=True)]
    preferred = [interpreter for interpreter in suited if usual.contains(interpreter.version)]
    final = [interpreter for interpreter in suited if not interpreter.version.is_prerelease]
    return next(iter((*preferred, *final, *suited)), None)


def requested_of_uv(request: PythonRequest | None, default: str) -> str:
    """What uv is asked to download where nothing that is there will do."""
    return _release(default) if request is None else str(request.specifiers)


def refusal(request: PythonRequest | None, installed: Sequence[Interpreter], default: str) -> str:
    """The sentence for the person where the Python that is asked for cannot be had."""
    asked = f"Python {default}, which is used where a repository names none," if request is None else request.wording
    there = ", ".join(str(interpreter.version) for interpreter in installed) or "none at all"
    return f"The repository needs {asked} and it cannot be had here. The versions that are there: {there}."


def _release(version: str) -> str:
    return f"=={version}" if version.count(".") >= 2 else f"=={version}.*"
