"""What a requirement is proved by: it reads like what it requires, and nothing that resembles it will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_auth.entitlements import GroupEntitlement, ReleasedEntitlements, TrustedSource
from replay_auth.requirements import MembershipRules, Requirement, managers_group

EGI = ("urn:mace:egi.eu", "aai.egi.eu")
EDUTEAMS = ("urn:geant:eduteams.org:service:eduteams", "eduteams.org")
VO = "vo.example.org"


def entitlement(group: str, source: tuple[str, str] = EGI) -> str:
    return f"{source[0]}:group:{group}#{source[1]}"


def rules(
    *names: str,
    trusted: Sequence[tuple[str, str]] = (EGI,),
    managers: Mapping[str, list[str]] | None = None,
    by_subgroup: Sequence[str] = (),
) -> MembershipRules:
    return MembershipRules.of(names, trusted, by_subgroup=by_subgroup, managers=managers)


def released(*texts: str) -> ReleasedEntitlements:
    return ReleasedEntitlements.of_claims({"entitlements": list(texts)})


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        (VO, Requirement((VO,))),
        (f"{VO}:subgroup", Requirement((VO, "subgroup"))),
        (f"{VO}:role=vm_operator", Requirement((VO,), "vm_operator")),
        (f"{VO}:a:b:role=x", Requirement((VO, "a", "b"), "x")),
        ("a vo", Requirement(("a vo",))),
        ("a%20vo", Requirement(("a vo",))),
        ("a+vo", Requirement(("a vo",))),
        ("a%3Avo:b%23", Requirement(("a:vo", "b#"))),
        (entitlement(VO), Requirement((VO,), None, TrustedSource(*EGI))),
        (entitlement("x:y:role=z", EDUTEAMS), Requirement(("x", "y"), "z", TrustedSource(*EDUTEAMS))),
    ],
)
def test_a_requirement_reads_like_what_it_requires(text: str, requirement: Requirement) -> None:
    assert Requirement.parse(text) == requirement


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "role=manager",
        f"{VO}:",
        f":{VO}",
        f"{VO}:role=",
        f"{VO}:role=a:b",
        f"{VO}#aai.egi.eu",
        "%zz",
        "a%",
        "urn:x",
        "urn:mace:egi.eu:res:x#aai.egi.eu",
    ],
)
def test_what_cannot_be_required_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        Requirement.parse(text)


@pytest.mark.parametrize(
    ("required", "said", "proved"),
    [
        (VO, VO, True),
        (VO, f"{VO}:role=member", True),
        (VO, f"{VO}:role=vm_operator", True),
        (VO, f"{VO}:subgroup", False),
        (VO, f"{VO}:subgroup:role=member", False),
        (f"{VO}:subgroup", f"{VO}:subgroup", True),
        (f"{VO}:subgroup", f"{VO}:subgroup:role=member", True),
        (f"{VO}:subgroup", VO, False),
        (f"{VO}:subgroup", f"{VO}:subgroup:below", False),
        (f"{VO}:subgroup", f"{VO}%3Asubgroup", False),
        (f"{VO}:subgroup", f"{VO}:Subgroup", False),
        (f"{VO}:subgroup", "subgroup", False),
        (f"{VO}:role=vm_operator", f"{VO}:role=vm_operator", True),
        (f"{VO}:role=vm_operator", f"{VO}:role=vm%5Foperator", True),
        (f"{VO}:role=vm_operator", f"{VO}:role=vm_operators", False),
        (f"{VO}:role=vm_operator", f"{VO}:role=member", False),
        (f"{VO}:role=vm_operator", VO, False),
        (f"{VO}:role=vm_operator", f"{VO}:subgroup:role=vm_operator", False),
        (f"{VO}:role=vm_operator", f"{VO}:role%3Dvm_operator", False),
    ],
)
def test_a_group_a_subgroup_and_a_role_are_proved_by_themselves(required: str, said: str, proved: bool) -> None:
    assert rules(required).memberships(released(entitlement(said))) == ([required] if proved else [])


@pytest.mark.parametrize(
    "said",
    [
        entitlement(f"{VO}.evil.org"),
        entitlement(f"x{VO}"),
        entitlement("vo_example_org"),
        entitlement("VO.example.org"),
        entitlement(f" {VO}"),
        entitlement(f"{VO}%00"),
        entitlement("vo"),
        entitlement("example.org"),
        entitlement(VO, ("urn:mace:egi.eu.evil.org", "aai.egi.eu")),
        entitlement(VO, ("urn:mace:egi", "aai.egi.eu")),
        entitlement(VO, ("urn:mace:EGI.eu", "aai.egi.eu")),
        entitlement(VO, ("urn:geant:egi.eu", "aai.egi.eu")),
        entitlement(VO, ("urn:mace:egi.eu", "aai.egi.eu.evil.org")),
        entitlement(VO, ("urn:mace:egi.eu", "xaai.egi.eu")),
        entitlement(VO, ("urn:mace:egi.eu", "AAI.egi.eu")),
        entitlement(VO, EDUTEAMS),
        entitlement(VO, ("urn:mace:egi.eu", "")),
        f"urn:mace:egi.eu:group:{VO}",
        VO,
    ],
)
def test_a_near_miss_proves_nothing(said: str) -> None:
    assert rules(VO).memberships(released(said)) == []


# Sources


def test_groups_of_equal_name_from_two_sources_are_two_groups() -> None:
    ours, theirs = entitlement(VO), entitlement(VO, EDUTEAMS)
    named = rules(VO, theirs)
    assert named.memberships(released(ours)) == [VO]
    assert named.memberships(released(theirs)) == [theirs]
    both_trusted = rules(VO, trusted=(EGI, EDUTEAMS))
    assert both_trusted.memberships(released(ours)) == [VO]
    assert both_trusted.memberships(released(f"{theirs.partition('#')[0]}:role=member#eduteams.org")) == [theirs]
    assert both_trusted.memberships(released(ours, theirs)) == sorted([VO, theirs])


def test_a_group_named_in_full_is_proved_by_that_source_alone() -> None:
    theirs = entitlement(VO, EDUTEAMS)
    assert rules(theirs).memberships(released(entitlement(VO))) == []
    assert rules(entitlement(VO), trusted=()).memberships(released(entitlement(VO))) == [entitlement(VO)]
    assert rules(VO, trusted=()).memberships(released(entitlement(VO))) == []


_NAMES = st.text(min_size=1, max_size=8).filter(lambda text: text.strip() and text.isprintable())


@given(groups=st.lists(_NAMES, min_size=1, max_size=3), role=st.none() | _NAMES)
def test_what_is_named_in_full_is_what_is_proved(groups: list[str], role: str | None) -> None:
    source = TrustedSource(*EDUTEAMS)
    requirement = Requirement(tuple(groups), role)
    assert GroupEntitlement.parse(requirement.in_full(source)) == GroupEntitlement(source, requirement.groups, role)


# Subgroups


@pytest.mark.parametrize(
    ("said", "proved"),
    [
        (f"{VO}:subgroup", True),
        (f"{VO}:a:b:role=member", True),
        (f"x{VO}:subgroup", False),
        (f"above:{VO}:subgroup", False),
    ],
)
def test_a_subgroup_gives_what_is_above_it_where_that_is_said_of_the_vo(said: str, proved: bool) -> None:
    assert rules(VO, by_subgroup=[VO]).memberships(released(entitlement(said))) == ([VO] if proved else [])
    assert rules(VO, by_subgroup=[VO]).memberships(released(entitlement(said, EDUTEAMS))) == []
    assert rules(VO, f"{VO}:else", by_subgroup=[f"{VO}:else"]).memberships(released(entitlement(said))) == []


# Managers


@pytest.mark.parametrize(
    ("required", "said", "username", "manages"),
    [
        (f"{VO}:role=manager", entitlement(f"{VO}:role=manager"), "", True),
        (f"{VO}:role=manager", entitlement(f"{VO}:role=managers"), "", False),
        (f"{VO}:role=manager", entitlement(f"{VO}:role=manager", EDUTEAMS), "", False),
        (f"{VO}:managers", entitlement(f"{VO}:managers:role=member"), "", True),
        (f"{VO}:managers", entitlement(VO), "", False),
        ("vo.else:role=boss", entitlement("vo.else:role=boss"), "", True),
        (entitlement("x:role=y", EDUTEAMS), entitlement("x:role=y", EDUTEAMS), "", True),
        ("user:ada@egi.eu", entitlement(VO), "ada@egi.eu", True),
        ("user: Ada@egi.eu ", entitlement(VO), "ada@egi.eu", True),
        ("user:ada@egi.eu", entitlement(VO), "ada@egi.eu.evil", False),
        ("user:ada@egi.eu", entitlement("user:ada@egi.eu"), "", False),
        ("user:ada@egi.eu", entitlement(VO), "", False),
    ],
)
def test_a_manager_holds_what_is_configured_or_is_named(required: str, said: str, username: str, manages: bool) -> None:
    managed = rules(VO, managers={VO: [required]}).managed(released(said), username)
    assert managed == ([VO] if manages else [])


def test_a_further_trusted_source_makes_nobody_a_manager_of_the_first_ones_vo() -> None:
    both = rules(VO, trusted=(EGI, EDUTEAMS), managers={VO: [f"{VO}:role=manager"]})
    assert both.managed(released(entitlement(f"{VO}:role=manager", EDUTEAMS)), "") == []


def test_the_group_of_managers_is_named_by_the_vo() -> None:
    assert managers_group(VO) == "vo.example.org:managers"


@pytest.mark.parametrize(
    ("names", "managers", "sentence"),
    [
        ([VO, f"{VO}:managers"], {VO: []}, "Name that subgroup in full there"),
        ([VO], {VO: ["user:"]}, None),
        ([VO], {VO: ["#"]}, "vo_managers of vo.example.org: '#' is not of the form"),
        ([VO], {"vo.else": []}, "not in permitted_vos: vo.else"),
        (["x" * 201], {}, "at most 200 characters"),
        (["a\x00b"], {}, "is not of the form"),
        ([f"{VO} "], {}, "neither begins nor ends with a space"),
    ],
)
def test_what_cannot_be_meant_stops_the_hub_with_a_sentence(
    names: list[str], managers: dict[str, list[str]], sentence: str | None
) -> None:
    with pytest.raises(ValueError, match=sentence or "user:NAME"):
        rules(*names, managers=managers)


def test_the_subgroup_managers_may_be_permitted_in_full() -> None:
    full = entitlement(f"{VO}:managers")
    both = rules(VO, full, managers={VO: [f"{VO}:role=manager"]})
    assert both.memberships(released(full)) == [full]


_ALMOST = st.lists(
    st.sampled_from([VO, ":", "role=", "#", "%", "%41", "urn:mace:egi.eu", ":group:", "+"]) | st.text(max_size=2),
    max_size=8,
)


@given(_ALMOST.map("".join), _ALMOST.map("".join))
def test_no_text_is_another_error_than_a_sentence(name: str, manager: str) -> None:
    try:
        said = rules(name, managers={name: [manager]}).memberships(released(name, entitlement(name), manager))
    except ValueError as error:
        said = [type(error).__name__, str(error)[-1]]
    assert said in ([], [name], ["ValueError", "."])
