"""What an image says of itself, and whom its user would be inside: nobody's home, or root by another name. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from replay_build_service.schemas import ImageModel

HOME_OF_NOBODY = "/tmp"  # noqa: S108 - the one folder that images have and everybody may write to; it is the container's own
"""``HOME`` where the image's user is a bare number that no account of the image has: it would be ``/``, which is root's."""


MOST_KNOWN = 1000
"""Images of which a process remembers that sessions may run."""

_NUMBER = re.compile(r"[+-]?[0-9]+")
"""What the engine takes for a number, by which it then goes (Go's ``strconv.Atoi``)."""

_ACCOUNTS_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image of which a session may be made. It is named by what it holds, so this stays true."""

    model: ImageModel
    needs_home: bool
    """Whether its user has no home in it."""


def runs_as_root(user: str) -> bool:
    """Whether an image's ``USER`` says that it runs as root; none said means root, too."""
    name = _name(user)
    return name in {"", "root"} or _number(name) == 0


def is_named(user: str) -> bool:
    """Whether an image's ``USER`` is a name, so that its list of accounts decides who that is."""
    return _number(_name(user)) is None


def names_root(passwd: str, user: str) -> bool:
    """Whether an account of that name is root's by number.

    As the engine reads ``/etc/passwd`` (moby's ``user`` package): a number that is missing or none counts as 0.
    """
    return any(
        not _ACCOUNTS_NUMBER.fullmatch(number) or int(number) == 0
        for name, number in _accounts(passwd)
        if name == _name(user)
    )


def may_lack_a_home(image: ImageModel) -> bool:
    """Whether an image's user may have no account in it, and with that no home."""
    return image.home is None and not is_named(image.user)


def has_account(passwd: str, user: str) -> bool:
    """Whether ``/etc/passwd`` knows the number that ``user`` begins with."""
    wanted = _number(_name(user))
    return any(_ACCOUNTS_NUMBER.fullmatch(number) and int(number) == wanted for _, number in _accounts(passwd))


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
    return user.strip().partition(":")[0]


def _number(name: str) -> int | None:
    if _NUMBER.fullmatch(name):
        return int(name)
    # Digits of other alphabets are none to the engine, but nobody means another account by them.
    return int(name) if name.isdecimal() else None


def _accounts(passwd: str) -> Iterator[tuple[str, str]]:
    """Name and number, as they stand there."""
    for line in passwd.split("\n"):
        fields = line.strip().split(":")
        yield fields[0].strip(), fields[2] if len(fields) > 2 else ""
