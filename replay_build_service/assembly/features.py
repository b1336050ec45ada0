"""What sessions can get beside their image: the features that the settings name, as their packages tell them."""

from importlib.metadata import entry_points

from replay_build_service.assembly.common import UnusableSettings
from replay_build_service.policy_schema import installed_features
from replay_build_service.policy_values import Feature
from replay_build_service.settings import ServiceSettings


def make_features(settings: ServiceSettings) -> tuple[Feature, ...]:
    """With the words for the consent page. Raises `UnusableSettings` for one that is not installed, or is none."""
    return tuple(_feature(str(name)) for name in settings.features)


def _feature(name: str) -> Feature:
    found = [one for one in entry_points(group="replay.features") if one.name == name]
    if len(found) != 1:
        known = ", ".join(installed_features()) or "none"
        raise UnusableSettings(f"ReplayBuildService.features: there is no “{name}”. Installed are: {known}.")
    try:
        loaded: object = found[0].load()
        words = {part: getattr(loaded, part) for part in ("name", "title", "explanation")}
    except (ImportError, AttributeError) as error:
        raise UnusableSettings(f"ReplayBuildService.features: “{name}” cannot be used: {error}") from error
    if words["name"] != name or not all(isinstance(text, str) for text in words.values()):
        raise UnusableSettings(f"ReplayBuildService.features: {found[0].value} is no feature named “{name}”.")
    return Feature(**words)
