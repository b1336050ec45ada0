"""What has to be proved by entitlements: membership of each permitted VO, and who manages it.

Pure, as `replay_auth.entitlements`, whose grammar it uses: a requirement reads like what it requires. All comparisons are of
whole parts, never of substrings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from replay_auth.entitlements import GroupEntitlement, ReleasedEntitlements, TrustedSource, described_group

MANAGERS = "managers"
PERSON = "user:"
"""What comes before the name of one person, where a requirement could stand."""

MOST_CHARACTERS = 200
"""In the name of a hub group, ``:managers`` included, so that the hub's database takes it."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A group, maybe a subgroup of it, maybe a role there, maybe by the word of one source alone."""

    groups: tuple[str, ...]
    """The group, then its subgroups from the top down; never empty."""
    role: str | None = None
    """None: any role, and none, will do."""
    source: TrustedSource | None = None
    """None: each of the trusted ones."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``vo.example.org``, ``vo.example.org:subgroup``, ``vo.example.org:role=vm_operator``, or an entitlement in full.

        Parts may be percent-encoded as in an entitlement, and have to be where they hold ``:`` or ``#``. Raises `ValueError`
        with a whole sentence.
        """
        if text.lower().startswith("urn:"):
            entitlement = GroupEntitlement.parse(text)
            if entitlement is None:
                raise ValueError(
                    f"{text!r} is not of the form NAMESPACE:group:GROUP[:SUBGROUP]*[:role=ROLE]#AUTHORITY."
                )
            return cls(entitlement.groups, entitlement.role, entitlement.source)
        described = None if "#" in text else described_group(text.split(":"))
        if described is None:
            raise ValueError(
                f"{text!r} is not of the form GROUP[:SUBGROUP]*[:role=ROLE], nor an entitlement in full: "
                "NAMESPACE:group:GROUP[:SUBGROUP]*[:role=ROLE]#AUTHORITY."
            )
        return cls(*described)

    def in_full(self, source: TrustedSource) -> str:
        """The entitlement by which this source would prove it."""
        role = [] if self.role is None else [f"role={quote(self.role, safe='')}"]
        parts = [source.namespace, "group", *(quote(group, safe="") for group in self.groups), *role]
        return f"{':'.join(parts)}#{source.authority}"


class Released:
    """Released entitlements, to be asked for many requirements in turn."""

    def __init__(self, released: ReleasedEntitlements) -> None:
        self._roles: dict[tuple[TrustedSource, tuple[str, ...]], set[str | None]] = {}
        for entitlement in released.groups:
            self._roles.setdefault((entitlement.source, entitlement.groups), set()).add(entitlement.role)

    def prove(self, requirement: Requirement, source: TrustedSource, *, by_subgroup: bool = False) -> bool:
        """Whether this source says what is required; ``by_subgroup``: or says it of a group below."""
        if _has_role(requirement, self._roles.get((source, requirement.groups))):
            return True
        depth = len(requirement.groups)
        return by_subgroup and any(
            found == source and groups[:depth] == requirement.groups and _has_role(requirement, roles)
            for (found, groups), roles in self._roles.items()
        )


def _has_role(requirement: Requirement, roles: set[str | None] | None) -> bool:
    return roles is not None and (requirement.role is None or requirement.role in roles)


@dataclass(frozen=True, slots=True)
class MembershipRules:
    """What proves membership of each VO, and who manages it."""

    required: tuple[tuple[str, Requirement], ...]
    """The name of each VO here, and what proves it."""
    trusted: tuple[TrustedSource, ...]
    """Who may speak about a VO by its bare name."""
    by_subgroup: frozenset[str] = frozenset()
    """The VOs whose subgroups' members are members of the VO, too."""
    managers: tuple[tuple[str, tuple[Requirement, ...], frozenset[str]], ...] = ()
    """The name of a VO, each requirement that makes a manager of it, and the names of persons who are."""

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        trusted: Iterable[tuple[str, str]],
        in_full: Mapping[str, str] | None = None,
        *,
        by_subgroup: Collection[str] = (),
        managers: Mapping[str, Iterable[str]] | None = None,
    ) -> Self:
        """Rules for these VOs. A name is the requirement itself, unless ``in_full`` has the entitlement that proves it.

        Raises `ValueError` with a whole sentence for what cannot be meant.
        """
        wanted = frozenset(names)
        texts = {**{name: name for name in wanted}, **(in_full or {})}
        for setting, named in (
            ("vo_entitlements", (in_full or {}).keys()),
            ("vos_of_subgroups", by_subgroup),
            ("vo_managers", (managers or {}).keys()),
        ):
            if unknown := sorted(set(named) - wanted):
                raise ValueError(f"{setting} names VOs that are not in permitted_vos: {', '.join(unknown)}.")
        required = tuple((name, _parsed(name, texts[name], in_full or {})) for name in sorted(wanted))
        sources = tuple(dict.fromkeys(TrustedSource.of(namespace, authority) for namespace, authority in trusted))
        for name, requirement in required:
            others = () if requirement.source else sources[1:]
            for group in (name, *(requirement.in_full(source) for source in others)):
                _check_name(group, wanted, managed=name in (managers or {}))
        return cls(
            required=required,
            trusted=sources,
            by_subgroup=frozenset(by_subgroup),
            managers=tuple(_managers_of(vo, tuple(texts)) for vo, texts in sorted((managers or {}).items())),
        )

    def memberships(self, released: ReleasedEntitlements) -> list[str]:
        """The names of the VOs that these entitlements prove, sorted. They are the names of hub groups.

        A bare name is that of the first trusted source: a group of equal name from another one is another group, and is
        named by its entitlement in full. An entitlement for a subgroup alone does not prove the group above it unless that
        is said of the VO: a provider that holds somebody to be a member of both releases both.
        """
        index = Released(released)
        found: set[str] = set()
        for name, requirement in self.required:
            sources = self.trusted if requirement.source is None else (requirement.source,)
            for place, source in enumerate(sources):
                if index.prove(requirement, source, by_subgroup=name in self.by_subgroup):
                    found.add(name if place == 0 else requirement.in_full(source))
        return sorted(found)

    def managed(self, released: ReleasedEntitlements, username: str) -> list[str]:
        """The names of the VOs that this person manages, sorted. Of the trusted sources the first alone says so."""
        index = Released(released)
        return [
            vo
            for vo, requirements, persons in self.managers
            if username in persons
            or any(
                index.prove(requirement, source)
                for requirement in requirements
                for source in ([requirement.source] if requirement.source else self.trusted[:1])
            )
        ]


def managers_group(vo: str) -> str:
    """The hub group of a VO's managers."""
    return f"{vo}:{MANAGERS}"


def _parsed(name: str, text: str, in_full: Mapping[str, str]) -> Requirement:
    requirement = Requirement.parse(text)
    if name in in_full and requirement.source is None:
        raise ValueError(
            f"The entitlement of the VO {name!r} is {text!r}, which is not of the form "
            "NAMESPACE:group:GROUP[:SUBGROUP]*[:role=ROLE]#AUTHORITY."
        )
    return requirement


def _check_name(name: str, names: Collection[str], *, managed: bool) -> None:
    if not name.strip():
        raise ValueError("permitted_vos has an empty name.")
    if name != name.strip() or not name.isprintable() or len(name) > MOST_CHARACTERS:
        raise ValueError(
            f"permitted_vos has {name[:MOST_CHARACTERS]!r}. The name of a hub group has at most {MOST_CHARACTERS} characters, "
            "all of them visible, and neither begins nor ends with a space."
        )
    if managed and managers_group(name) in names:
        raise ValueError(
            f"The managers of {name} would be in the hub group {managers_group(name)}, which is also in permitted_vos. "
            "Name that subgroup in full there."
        )


def _managers_of(vo: str, texts: Collection[str]) -> tuple[str, tuple[Requirement, ...], frozenset[str]]:
    requirements: list[Requirement] = []
    persons: set[str] = set()
    for text in texts:
        if text.startswith(PERSON) and text.removeprefix(PERSON).strip():
            # As the hub spells user names.
            persons.add(text.removeprefix(PERSON).strip().lower())
            continue
        try:
            requirements.append(Requirement.parse(text))
        except ValueError as error:
            raise ValueError(f"vo_managers of {vo}: {error} One person is named as {PERSON}NAME.") from error
    return vo, tuple(requirements), frozenset(persons)
