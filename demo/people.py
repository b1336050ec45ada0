"""The people who can log in at the demo's stand-in for EGI Check-in. All of them are invented.

Values only: how they log in is `demo.checkin`'s business. One person for each case that the login has to tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTEBOOKS_MEMBER = "urn:mace:egi.eu:group:vo.notebooks.egi.eu:role=member#aai.egi.eu"
ACCESS_MEMBER = "urn:mace:egi.eu:group:vo.access.egi.eu#aai.egi.eu"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, and what Check-in would release about them."""

    name: str
    email: str
    preferred_username: str
    """Two people may have the same, as at Check-in: it identifies nobody."""
    voperson_id: str
    remark: str
    """Why this person exists; shown at the login."""
    eduperson_entitlement: tuple[str, ...] = ()
    """The claim that Check-in is leaving."""
    entitlements: tuple[str, ...] = ()
    """The claim that replaces it."""

    @property
    def given_name(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def family_name(self) -> str:
        return self.name.partition(" ")[2]

    def get_user_id(self) -> str:
        """What the authorization server knows this person by."""
        return self.voperson_id


ADA = Person(
    name="Ada Researcher",
    email="ada.researcher@example.org",
    preferred_username="researcher",
    voperson_id="a1a0ada00000000000000000000000000000000000000000000000000000ada1@egi.eu",
    remark="member of vo.notebooks.egi.eu",
    eduperson_entitlement=(NOTEBOOKS_MEMBER, "urn:mace:egi.eu:res:demo.example.org#aai.egi.eu"),
)
BORIS = Person(
    name="Boris Nobody",
    email="boris.nobody@example.org",
    preferred_username="researcher",
    voperson_id="b0b0b0b00000000000000000000000000000000000000000000000000000b0b1@egi.eu",
    remark="in no VO",
)
CHIARA = Person(
    name="Chiara Twofold",
    email="chiara.twofold@example.org",
    preferred_username="chiara",
    voperson_id="c1a2a3000000000000000000000000000000000000000000000000000000c1a1@egi.eu",
    remark="member of vo.notebooks.egi.eu and vo.access.egi.eu",
    eduperson_entitlement=(NOTEBOOKS_MEMBER,),
    entitlements=(NOTEBOOKS_MEMBER, ACCESS_MEMBER),
)
DMITRI = Person(
    name="Dmitri Manager",
    email="dmitri.manager@example.org",
    preferred_username="dmitri",
    voperson_id="d3d3d3000000000000000000000000000000000000000000000000000000d3d1@egi.eu",
    remark="manager of vo.notebooks.egi.eu",
    entitlements=(NOTEBOOKS_MEMBER, "urn:mace:egi.eu:group:vo.notebooks.egi.eu:role=manager#aai.egi.eu"),
)
EVA = Person(
    name="Eva Almost",
    email="eva.almost@example.org",
    preferred_username="eva",
    voperson_id="e7a0000000000000000000000000000000000000000000000000000000e7a001@egi.eu",
    remark="only in groups that look like vo.notebooks.egi.eu",
    eduperson_entitlement=(
        "urn:mace:egi.eu:group:vo.notebooks.egi.eu.evil.example:role=member#aai.egi.eu",
        "urn:mace:egi.eu:group:vo.notebooks.egi.eu:role=member#aai.evil.example",
    ),
    entitlements=(
        "urn:mace:evil.example:group:vo.notebooks.egi.eu:role=member#aai.egi.eu",
        "urn:mace:egi.eu:group:vo.notebooks.egi.eu:guests:role=member#aai.egi.eu",
    ),
)
FARAH = Person(
    name="Farah Keeper",
    email="farah.keeper@example.org",
    preferred_username="farah",
    voperson_id="fa7a700000000000000000000000000000000000000000000000000000fa7a01@egi.eu",
    remark="manager of vo.access.egi.eu, by its subgroup “managers”",
    entitlements=(ACCESS_MEMBER, "urn:mace:egi.eu:group:vo.access.egi.eu:managers:role=member#aai.egi.eu"),
)

PEOPLE = (ADA, BORIS, CHIARA, DMITRI, EVA, FARAH)
