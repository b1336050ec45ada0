"""Which VOs a person belongs to, read from the entitlements that an identity provider released.

Pure: text in, values out. No input or output, no JupyterHub, no configuration objects; the authenticator does those.

The grammar is AARC-G069 (https://doi.org/10.5281/zenodo.6533400), which replaced AARC-G002 and reads its values too::

    <NAMESPACE>:group:<GROUP>[:<SUBGROUP>]*[:role=<ROLE>]#<AUTHORITY>

Claims come from outside: whatever does not fit the grammar is no membership, and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import unquote

CLAIMS = ("entitlements", "eduperson_entitlement")
"""Check-in is moving from the second to the first. Either may be missing; with both, the union counts."""

_GROUP = "group"
_ROLE = "role="
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class TrustedSource:
    """Who may speak about a bare VO name: the namespace of the entitlement and the authority that issued it."""

    namespace: str
    """``urn:mace:egi.eu``, without ``:group``."""
    authority: str
    """``aai.egi.eu``, as it follows ``#``."""

    @classmethod
    def of(cls, namespace: str, authority: str) -> Self:
        """With the parts of a URN that are the same in either case in lower case, as parsing leaves them."""
        return cls(_canonical_namespace(namespace.split(":")), authority)


@dataclass(frozen=True, slots=True)
class GroupEntitlement:
    """One statement of membership, every part percent-decoded."""

    source: TrustedSource
    groups: tuple[str, ...]
    """The group, then its subgroups from the top down; never empty."""
    role: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The statement that this text makes, or None where it is not one: another kind of entitlement, or malformed.

        Parts are split before they are decoded, so an encoded ``:`` or ``#`` never makes a part.
        """
        name, _, authority = text.partition("#")
        parts = name.split(":")
        if not authority or "#" in authority or not all(parts) or parts[0].lower() != "urn":
            return None
        try:
            # urn, a namespace identifier and at least one string of its own come before the first "group".
            position = parts.index(_GROUP, 3)
        except ValueError:
            return None
        described = parts[position + 1 :]
        role_text = described.pop() if described and described[-1].startswith(_ROLE) else None
        if not described or any(part.startswith(_ROLE) for part in described):
            return None
        groups = [_decoded(part) for part in described]
        role = None if role_text is None else _decoded(role_text.removeprefix(_ROLE))
        if None in groups or (role_text is not None and role is None):
            return None
        source = TrustedSource(_canonical_namespace(parts[:position]), authority)
        return cls(source, tuple(cast("list[str]", groups)), role)


def _canonical_namespace(parts: list[str]) -> str:
    # RFC 8141, section 3.1: "urn" and the namespace identifier are the same in upper and lower case, the rest is not.
    return ":".join([part.lower() for part in parts[:2]] + parts[2:])


def _decoded(part: str) -> str | None:
    if _BAD_PERCENT.search(part):
        return None
    try:
        # Older entitlements spell a space as "+"; a plus sign itself is %2B.
        text = unquote(part.replace("+", " "), errors="strict")
    except UnicodeDecodeError:
        return None
    return text if text.strip() and text.isprintable() else None


@dataclass(frozen=True, slots=True)
class ReleasedEntitlements:
    """What a provider released about one person."""

    groups: frozenset[GroupEntitlement]
    unread: tuple[str, ...]
    """What claims to be about a group and could not be read, or was no text; for a log line, nothing else."""

    @classmethod
    def of_claims(cls, claims: Mapping[str, object]) -> Self:
        """The union of both claims. A claim may be a list, or a bare string where there is one value."""
        groups: set[GroupEntitlement] = set()
        unread: list[str] = []
        for value in _claimed_values(claims):
            entitlement = GroupEntitlement.parse(value) if isinstance(value, str) else None
            if entitlement is not None:
                groups.add(entitlement)
            elif not isinstance(value, str) or f":{_GROUP}:" in value:
                unread.append(repr(value)[:200])
        return cls(frozenset(groups), tuple(unread))


def _claimed_values(claims: Mapping[str, object]) -> Iterable[object]:
    for claim in CLAIMS:
        value = claims.get(claim)
        if isinstance(value, list | tuple):
            yield from cast("Iterable[object]", value)
        elif value is not None:
            yield value


@dataclass(frozen=True, slots=True)
class MembershipRules:
    """What proves membership of each VO. All comparisons are of whole parts, never of substrings."""

    by_name: frozenset[str]
    """VOs that are the top group of the same name, said by a trusted source. Any role counts, and so does none."""
    trusted: frozenset[TrustedSource]
    in_full: tuple[tuple[str, GroupEntitlement], ...] = ()
    """VOs that another source speaks for: the name here, and the group, subgroups (and role, if given) there."""

    @classmethod
    def of(
        cls, names: Iterable[str], trusted: Iterable[tuple[str, str]], in_full: Mapping[str, str] | None = None
    ) -> Self:
        """Rules for these VO names; a name in ``in_full`` is proved by that entitlement and by nothing else.

        Raises `ValueError` with a whole sentence where an entitlement of ``in_full`` is none.
        """
        wanted = frozenset(names)
        full: dict[str, GroupEntitlement] = {}
        for name, text in (in_full or {}).items():
            entitlement = GroupEntitlement.parse(text)
            if entitlement is None:
                raise ValueError(
                    f"The entitlement of the VO {name!r} is {text!r}, which is not of the form "
                    "NAMESPACE:group:GROUP[:SUBGROUP]*[:role=ROLE]#AUTHORITY."
                )
            full[name] = entitlement
        return cls(
            by_name=wanted - full.keys(),
            trusted=frozenset(TrustedSource.of(namespace, authority) for namespace, authority in trusted),
            in_full=tuple((name, full[name]) for name in sorted(wanted & full.keys())),
        )

    def memberships(self, released: ReleasedEntitlements) -> list[str]:
        """The names of the VOs that these entitlements prove, sorted.

        An entitlement for a subgroup alone does not prove the group above it: a provider that holds somebody to be
        a member of both releases both.
        """
        found = {
            entitlement.groups[0]
            for entitlement in released.groups
            if len(entitlement.groups) == 1
            and entitlement.groups[0] in self.by_name
            and entitlement.source in self.trusted
        }
        for name, wanted in self.in_full:
            if any(_proves(entitlement, wanted) for entitlement in released.groups):
                found.add(name)
        return sorted(found)


def _proves(entitlement: GroupEntitlement, wanted: GroupEntitlement) -> bool:
    return (
        entitlement.source == wanted.source
        and entitlement.groups == wanted.groups
        and wanted.role in {None, entitlement.role}
    )
