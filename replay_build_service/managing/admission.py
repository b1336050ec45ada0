"""Who manages a VO. Pure: what the hub says of a person in, a `Manager` out, and without one nothing here can be called."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from replay_build_service.domain import Person
from replay_build_service.errors import NotPermitted

GROUP_SUFFIX = ":managers"
"""The hub group of a VO's managers is the VO's name and this."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Somebody who may manage one VO: made by `admit` alone."""

    name: str
    vo: str


def managed_vos(person: Person, vos: Collection[str], *, is_admin: bool) -> Sequence[str]:
    """The VOs that this person manages, sorted: an administrator all, others by their hub groups.

    A VO that is itself named like another's managers' group is a VO and makes nobody a manager: its members did not
    come into that group as managers.
    """
    return [
        vo
        for vo in sorted(vos)
        if is_admin or (f"{vo}{GROUP_SUFFIX}" in person.groups and f"{vo}{GROUP_SUFFIX}" not in vos)
    ]


def admit(person: Person, vo: str, vos: Collection[str], *, is_admin: bool) -> Manager:
    """Raises `NotPermitted`, with the same sentence whether the VO exists or not."""
    if vo not in managed_vos(person, vos, is_admin=is_admin):
        raise NotPermitted(
            "You do not manage a virtual organisation of this name here. If you became its manager just now, "
            "log out and in again. Who manages it is decided by the administrators of this hub."
        )
    return Manager(person.name, vo)
