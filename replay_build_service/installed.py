"""Providers that other packages bring, by the entry point group ``replay.providers``: which there are, and how their specs are spelled.

Both processes that read links ask here, at their start: the service, which then makes the providers (`providers.loading`), and the hub,
whose page of a link is made from its text alone. An entry point's name is the provider's name in links; it names a factory, a class most
likely, that has a `Syntax` in ``syntax``. See ``docs/providers.md``. Standard library, syntax and what those packages bring.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from replay_build_service.syntax import Syntax, known_syntaxes, learn, syntax_of

__all__ = ["GROUP", "InstalledProvider", "learn_installed_providers"]

logger = logging.getLogger(__name__)

GROUP = "replay.providers"

_OURS = frozenset(syntax.provider for syntax in known_syntaxes())
"""What no other package can be, whatever this process has learned since."""


@dataclass(frozen=True, slots=True)
class InstalledProvider:
    """A provider of another package, whose links are understood now."""

    name: str
    package: str
    """With its version, for an administrator."""
    factory: Callable[..., object]


class _Unusable(Exception):
    """Why, in words for an administrator that follow the name and the package."""


def learn_installed_providers() -> tuple[Sequence[InstalledProvider], Sequence[str]]:
    """Loads them all and makes their spellings known in this process; and says of those that cannot be used why, each in a sentence.

    What cannot be used is logged, too, and changes nothing. Imports the packages, which may take its time.
    """
    entries = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    found: list[InstalledProvider] = []
    complaints: list[str] = []
    for entry in entries:
        package = "a package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        try:
            if sum(other.name == entry.name for other in entries) > 1:
                raise _Unusable("more than one package brings it")
            found.append(InstalledProvider(entry.name, package, _learned(entry)))
        except _Unusable as error:
            complaint = f"The provider “{entry.name}” of {package} cannot be used: {error}."
            logger.error("%s", complaint, exc_info=error.__cause__)
            complaints.append(complaint)
    return found, complaints


def _learned(entry: EntryPoint) -> Callable[..., object]:
    if entry.name in _OURS:
        raise _Unusable("Replay has a provider of that name itself")
    try:
        factory: object = entry.load()
    except Exception as error:  # It is somebody else's module: it may raise whatever there is.
        raise _Unusable(f"{entry.value} cannot be imported ({type(error).__name__}: {error})") from error
    syntax = getattr(factory, "syntax", None)
    if not callable(factory) or not isinstance(syntax, Syntax):
        raise _Unusable(f"{entry.value} is no factory with a Syntax in “syntax”")
    if syntax.provider != entry.name:
        raise _Unusable(f"its syntax is that of “{syntax.provider}”; both have to be called the same")
    try:
        if syntax_of(entry.name) is not syntax:
            learn(syntax)
    except ValueError as error:
        raise _Unusable(str(error).rstrip(".")) from error
    return factory
