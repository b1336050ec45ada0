"""What an image says of itself, and whom its user would be inside: nobody's home, or root by another name. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from replay_build_service.schemas import ImageModel, LaunchPlan

HOME_OF_NOBODY = "/tmp"  # noqa: S108 - the one folder that images have and everybody may write to; it is the container's own
"""``HOME`` where the image's user is a bare number that no account of the image has: it would be ``/``, which is root's."""


MOST_KNOWN = 1000
"""Images of which a process remembers that sessions may run."""

_NUMBER = re.compile(r"[+-]?[0-9]+")

_GREATEST = 2**31 - 1
"""What the engine takes for an account's number, without a name of that spelling being looked up."""


ROOT_IMAGE = (
    "This image runs as root, which is not allowed here. The last USER in its Dockerfile must be another one, such as: "
    "USER 1000"
)


def runs_as_root(user: str) -> bool:
    """Whether an image's ``USER`` says that it runs as root; none said means root, too.

    So does a number that no account can have: what the engine makes of one is not to be relied on.
    """
    name = _name(user)
    return name in {"", "root"} or (_NUMBER.fullmatch(name) is not None and not _is_ordinary(name))


def is_named(user: str) -> bool:
    """Whether an image's ``USER`` is a name, so that its list of accounts decides who that is."""
    return _NUMBER.fullmatch(_name(user)) is None


def numbers_of(user: str) -> tuple[int | None, int | None]:
    """The numbers of an image's ``USER`` and of its group; none where they are names, or not said."""
    group = user.partition(":")[2].strip()
    return (
        None if is_named(user) else int(_name(user)),
        int(group) if len(group) < 20 and _NUMBER.fullmatch(group) else None,
    )


def names_root(passwd: str, user: str) -> bool:
    """Whether an account of that name is, or may be, root's by number.

    The engine (moby's ``user`` package) takes a number that is missing or none for 0, and cuts one that is too large.
    """
    return any(not _is_ordinary(number) for name, number in _accounts(passwd) if name == _name(user))


def number_of(passwd: str, user: str) -> int | None:
    """The number of an image's ``USER``: itself, or its account's; none where it has none that is ordinary."""
    number, _ = numbers_of(user)
    if number is not None:
        return number
    found = [int(number) for name, number in _accounts(passwd) if name == _name(user) and _is_ordinary(number)]
    return found[0] if found else None


def home_of(image: ImageModel | None) -> str:
    """The folder that a session of an image calls home; empty where the image does not say."""
    home = (image.home or image.working_dir) if image else ""
    # Neither an engine's mounts nor a cluster's take a colon, and what is no plain path is nobody's home.
    is_usable = home.startswith("/") and ":" not in home and ".." not in home.split("/")
    return home.rstrip("/") if is_usable else ""


def top_level_with_content(plan: LaunchPlan) -> frozenset[str] | None:
    """What a session has where it begins, by names: its image's repository's, and the content. None where that is not known."""
    known = top_level_of(plan.container)
    return known if known is None or plan.content is None else known | {plan.content.name}


def top_level_of(image: ImageModel | None) -> frozenset[str] | None:
    """What its repository has where a session begins, by names; none where that is not known."""
    known = None if image is None else image.top_level
    return None if known is None else frozenset(known)


def may_lack_a_home(image: ImageModel) -> bool:
    """Whether an image's user may have no account in it, and with that no home."""
    return image.home is None and not is_named(image.user)


def has_account(passwd: str, user: str) -> bool:
    """Whether ``/etc/passwd`` knows the number that ``user`` begins with."""
    wanted = int(_name(user))
    return any(_is_ordinary(number) and int(number) == wanted for _, number in _accounts(passwd))


def image_model(inspected: Mapping[str, Any]) -> ImageModel:
    """What an image says of itself, of the engine's answer to ``GET /images/{name}/json``."""
    config = inspected.get("Config") or {}
    homes = [entry[5:] for entry in config.get("Env") or [] if entry.startswith("HOME=")]
    return ImageModel(
        user=config.get("User") or "",
        working_dir=config.get("WorkingDir") or "",
        home=homes[-1] if homes else None,
        entrypoint=list(config.get("Entrypoint") or []),
        command=list(config.get("Cmd") or []),
    )


def _name(user: str) -> str:
    return user.partition(":")[0].strip()


def _is_ordinary(number: str) -> bool:
    """A number as accounts other than root's have one, in digits that every program reads alike."""
    return len(number) < 20 and _NUMBER.fullmatch(number) is not None and 0 < int(number) <= _GREATEST


def _accounts(passwd: str) -> Iterator[tuple[str, str]]:
    """Name and number, as they stand there."""
    for line in passwd.split("\n"):
        fields = line.split(":")
        # The number as it stands there: what is blank to us need not be to the engine.
        yield fields[0].strip(), fields[2] if len(fields) > 2 else ""
