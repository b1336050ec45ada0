"""Which VOs may enter and who manages them, as an administrator sets it, and what a person's stored claims prove of that.

Settings and nothing that asks anybody: what an entitlement says is `replay_auth.entitlements`, what proves what
`replay_auth.requirements`.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import Logger
from typing import Any, cast
from urllib.parse import urlsplit

from traitlets import Dict, HasTraits, List, Set, Tuple, Unicode, validate

from replay_auth.entitlements import ReleasedEntitlements
from replay_auth.requirements import MembershipRules, managers_group

_MOST_LOGGED = 1000
"""Texts of which is remembered that they were logged: the bound keeps a provider from filling the memory."""
_TOLD_AT_ONCE = 10


class PermittedVOs(HasTraits):
    """What an authenticator needs to tell members from others."""

    log: Logger | Any
    user_auth_state_key: str

    permitted_vos = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        The VOs whose members may enter: name → where to ask for membership, or ``""`` where there is no such page::

            c.EGICheckinAuthenticator.permitted_vos = {
                "vo.notebooks.egi.eu": "https://aai.egi.eu/registry/co_petitions/start/coef:111",
                "vo.access.egi.eu": "",
                "vo.operas-eu.org:PSP": "",
                "fedcloud.egi.eu:role=vm_operator": "",
                "urn:geant:eduteams.org:service:eduteams:group:LAGO-AAI#eduteams.org": "",
            }

        A name is the requirement: a group, one of its subgroups, a role in either, or an entitlement in full where
        another source than `trusted_sources` speaks for it. Without a role, any role and none will do. The names become
        the hub groups. Without any, nobody enters.
        """,
    ).tag(allow_config=True)

    trusted_sources = List(
        Tuple(Unicode(), Unicode()),
        default_value=[("urn:mace:egi.eu", "aai.egi.eu")],
        config=True,
        help="""
        Who may speak about a VO by its bare name: pairs of (namespace, authority), compared whole.

        The name is that of the first pair's VO. A group of equal name from another pair is another group: its members
        may enter, too, and their hub group is named by the entitlement in full.
        """,
    )

    vo_entitlements = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Another name for a VO that would have to be named in full in `permitted_vos`::

            c.EGICheckinAuthenticator.vo_entitlements = {
                "LAGO-AAI": "urn:geant:eduteams.org:service:eduteams:group:LAGO-AAI#eduteams.org",
            }

        For these names `trusted_sources` do not count. Without a role any role will do.
        """,
    )

    vos_of_subgroups = Set(
        Unicode(),
        config=True,
        help="""
        The permitted VOs of which also those are members who are in nothing but a subgroup of them. By default a
        subgroup does not give what is above it.
        """,
    )

    vo_managers = Dict(
        key_trait=Unicode(),
        value_trait=List(Unicode()),
        config=True,
        help="""
        Who manages a permitted VO: its name → what makes somebody a manager of it, each as in `permitted_vos`, or
        ``user:NAME`` for one person by their name at the hub::

            c.EGICheckinAuthenticator.vo_managers = {
                "vo.notebooks.egi.eu": ["vo.notebooks.egi.eu:role=manager"],
                "vo.access.egi.eu": ["vo.access.egi.eu:managers", "user:0123…@egi.eu"],
            }

        They become members of the hub group ``<vo>:managers``. Of `trusted_sources` the first alone says who they are.
        To enter, they have to be members of a permitted VO as everybody else.
        """,
    )

    @validate("permitted_vos")
    def _validate_permitted_vos(self, proposal: Any) -> dict[str, str]:
        for name, url in proposal.value.items():
            if not name.strip():
                raise ValueError("permitted_vos has an empty name.")
            if url and urlsplit(url).scheme not in {"https", "http"}:
                raise ValueError(f"The enrolment address of {name} is {url!r}, which is no http or https URL.")
        return proposal.value

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logged_unread: set[str] = set()
        self.membership_rules()

    def membership_rules(self) -> MembershipRules:
        """What proves membership of each permitted VO. Raises `ValueError` for settings that cannot be meant."""
        return MembershipRules.of(
            self.permitted_vos,
            self.trusted_sources,
            self.vo_entitlements,
            by_subgroup=self.vos_of_subgroups,
            managers=self.vo_managers,
        )

    def permitted_vos_of(self, auth_state: Mapping[str, object] | None) -> list[str]:
        """The permitted VOs that a stored or a fresh auth state proves, sorted; without any state, none."""
        return self.membership_rules().memberships(self._released(auth_state))

    def groups_of(self, auth_state: Mapping[str, object] | None, username: str) -> set[str]:
        """The hub groups that an auth state proves: permitted VOs, and ``<vo>:managers``. Nobody else gets any."""
        rules = self.membership_rules()
        released = self._released(auth_state)
        managed = {managers_group(vo) for vo in rules.managed(released, username)}
        return managed | set(rules.memberships(released))

    def claims_of(self, auth_state: Mapping[str, object] | None) -> Mapping[str, object]:
        """What userinfo said, as it is kept in an auth state; nothing where there is none."""
        claims = (auth_state or {}).get(self.user_auth_state_key)
        return cast("Mapping[str, object]", claims) if isinstance(claims, dict) else {}

    def _released(self, auth_state: Mapping[str, object] | None) -> ReleasedEntitlements:
        released = ReleasedEntitlements.of_claims(self.claims_of(auth_state))
        new = sorted(set(released.unread) - self._logged_unread)[: _MOST_LOGGED - len(self._logged_unread)]
        if new:
            self._logged_unread.update(new)
            more = f" and {len(new) - _TOLD_AT_ONCE} more" if len(new) > _TOLD_AT_ONCE else ""
            self.log.info(
                "No groups that can be read, so they count for nothing: %s%s", ", ".join(new[:_TOLD_AT_ONCE]), more
            )
        return released
