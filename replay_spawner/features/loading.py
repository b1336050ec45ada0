"""Which features there are: those that installed packages name in the entry point group ``replay.features``."""

from functools import cache
from importlib.metadata import entry_points

from replay_spawner.features.base import Feature

GROUP = "replay.features"


class NoSuchFeature(Exception):
    """No installed package has a feature of that name, or what it names is none. The text is for the administrators."""


@cache
def feature_class(name: str) -> type[Feature]:
    """The class of a feature. Raises `NoSuchFeature`, and whatever its package raises when it is imported."""
    found = [one for one in entry_points(group=GROUP) if one.name == name]
    if len(found) != 1:
        count = "no package" if not found else f"{len(found)} packages"
        raise NoSuchFeature(f"{count} on this machine names a feature “{name}” in the entry point group {GROUP}.")
    loaded: object = found[0].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Feature)) or loaded.name != name:
        raise NoSuchFeature(f"{found[0].value} is no feature named “{name}”.")
    return loaded
