"""What an identity provider's entitlements say about a person: the grammar, and nothing of what it is good for.

Pure: text in, values out. No input or output, no JupyterHub, no configuration objects; the authenticator does those. What
the statements prove is `replay_auth.requirements`.

The grammar is AARC-G069 (https://doi.org/10.5281/zenodo.6533400), which replaced AARC-G002 and reads its values too::

    <NAMESPACE>:group:<GROUP>[:<SUBGROUP>]*[:role=<ROLE>]#<AUTHORITY>

Claims come from outside: whatever does not fit the grammar is no membership, and never an error. Reading one takes time
linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self, cast
from urllib.parse import unquote

CLAIMS = ("entitlements", "eduperson_entitlement")
"""Check-in is moving from the second to the first. Either may be missing; with both, the union counts."""

MOST_ENTITLEMENTS = 20_000
"""So many values of one person are read. Nobody has a tenth of it; what comes after them counts for nothing."""

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
        described = described_group(parts[position + 1 :])
        if described is None:
            return None
        source = TrustedSource(_canonical_namespace(parts[:position]), authority)
        return cls(source, *described)


def described_group(parts: list[str]) -> tuple[tuple[str, ...], str | None] | None:
    """The group with its subgroups, and the role, that these parts name between ``group:`` and ``#``; None where they do not."""
    last_is_role = bool(parts) and parts[-1].startswith(_ROLE)
    named = parts[:-1] if last_is_role else parts
    if not named or any(part.startswith(_ROLE) for part in named):
        return None
    groups = [_decoded(part) for part in named]
    role = _decoded(parts[-1].removeprefix(_ROLE)) if last_is_role else None
    if None in groups or (last_is_role and role is None):
        return None
    return tuple(cast("list[str]", groups)), role


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
    """What is no group, is malformed or is no text, each at most 200 characters; for a log line, nothing else."""

    @classmethod
    def of_claims(cls, claims: Mapping[str, object]) -> Self:
        """The union of both claims. A claim may be a list, or a bare string where there is one value."""
        groups: set[GroupEntitlement] = set()
        unread: list[str] = []
        for value in islice(_claimed_values(claims), MOST_ENTITLEMENTS):
            entitlement = GroupEntitlement.parse(value) if isinstance(value, str) else None
            if entitlement is not None:
                groups.add(entitlement)
            else:
                # Before its repr is made, so that a long text costs no more than a short one.
                unread.append(repr(value[:200] if isinstance(value, str) else value)[:200])
        return cls(frozenset(groups), tuple(unread))


def _claimed_values(claims: Mapping[str, object]) -> Iterable[object]:
    for claim in CLAIMS:
        value = claims.get(claim)
        if isinstance(value, list | tuple):
            yield from cast("Iterable[object]", value)
        elif value is not None:
            yield value
