"""What an entitlement proves, and what only looks as if it did."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay_auth.entitlements import MOST_ENTITLEMENTS, GroupEntitlement, ReleasedEntitlements, TrustedSource
from replay_auth.requirements import MembershipRules

EGI = TrustedSource("urn:mace:egi.eu", "aai.egi.eu")
EDUTEAMS = TrustedSource("urn:geant:eduteams.org:service:eduteams", "eduteams.org")
VO = "vo.notebooks.egi.eu"
LAGO = "urn:geant:eduteams.org:service:eduteams:group:LAGO-AAI#eduteams.org"
RULES = MembershipRules.of([VO, "LAGO-AAI", "a vo"], [("urn:mace:egi.eu", "aai.egi.eu")], {"LAGO-AAI": LAGO})


def proved_by(*texts: object, rules: MembershipRules = RULES) -> list[str]:
    return rules.memberships(ReleasedEntitlements.of_claims({"entitlements": list(texts)}))


@pytest.mark.parametrize(
    ("text", "source", "groups", "role"),
    [
        ("urn:mace:egi.eu:group:vo.openeo.cloud#aai.egi.eu", EGI, ("vo.openeo.cloud",), None),
        (
            "urn:mace:egi.eu:group:vo.operas-eu.org:PSP:admins:role=member#aai.egi.eu",
            EGI,
            ("vo.operas-eu.org", "PSP", "admins"),
            "member",
        ),
        ("urn:mace:egi.eu:group:fedcloud.egi.eu:role=vm_operator#aai.egi.eu", EGI, ("fedcloud.egi.eu",), "vm_operator"),
        (LAGO, EDUTEAMS, ("LAGO-AAI",), None),
        ("urn:mace:egi.eu:group:a%20vo:b%3Ac:role=x%23y#aai.egi.eu", EGI, ("a vo", "b:c"), "x#y"),
        ("urn:mace:egi.eu:group:a+vo#aai.egi.eu", EGI, ("a vo",), None),
        ("urn:mace:egi.eu:group:a%2Bvo#aai.egi.eu", EGI, ("a+vo",), None),
        ("urn:mace:egi.eu:group:%C3%A9t%C3%A9#aai.egi.eu", EGI, ("été",), None),
        ("urn:mace:egi.eu:group:x:role%3Dmember#aai.egi.eu", EGI, ("x", "role=member"), None),
        ("urn:mace:egi.eu:group:group:group#aai.egi.eu", EGI, ("group", "group"), None),
        ("URN:MACE:egi.eu:group:x#aai.egi.eu", EGI, ("x",), None),
    ],
)
def test_a_group_entitlement_is_read(
    text: str, source: TrustedSource, groups: tuple[str, ...], role: str | None
) -> None:
    assert GroupEntitlement.parse(text) == GroupEntitlement(source, groups, role)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "urn",
        "urn:mace:egi.eu:res:demo.example.org#aai.egi.eu",
        "urn:mace:egi.eu:group:x",
        "urn:mace:egi.eu:group:x#",
        "urn:mace:egi.eu:group:x#aai.egi.eu#aai.egi.eu",
        "urn:mace:egi.eu:group#aai.egi.eu",
        "urn:mace:egi.eu:group:#aai.egi.eu",
        "urn:mace:egi.eu:group:x:#aai.egi.eu",
        "urn:mace:egi.eu:group::x#aai.egi.eu",
        "urn:mace:egi.eu:group:role=member#aai.egi.eu",
        "urn:mace:egi.eu:group:x:role=#aai.egi.eu",
        "urn:mace:egi.eu:group:x:role=member:y#aai.egi.eu",
        "urn:mace:egi.eu:group:x:role=member:role=member#aai.egi.eu",
        "urn:mace:egi.eu:group:%zz#aai.egi.eu",
        "urn:mace:egi.eu:group:x%#aai.egi.eu",
        "urn:mace:egi.eu:group:%ff#aai.egi.eu",
        "urn:mace:egi.eu:group:x%00#aai.egi.eu",
        "urn:mace:egi.eu:group:x%0A#aai.egi.eu",
        "urn:mace:egi.eu:group:%20#aai.egi.eu",
        "urn:mace:group:x#aai.egi.eu",
        "https://mace.egi.eu:group:x#aai.egi.eu",
    ],
)
def test_what_is_no_group_or_malformed_is_none(text: str) -> None:
    assert GroupEntitlement.parse(text) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"urn:mace:egi.eu:group:{VO}#aai.egi.eu", [VO]),
        (f"urn:mace:egi.eu:group:{VO}:role=member#aai.egi.eu", [VO]),
        (f"urn:mace:egi.eu:group:{VO}:role=vm_operator#aai.egi.eu", [VO]),
        ("urn:mace:egi.eu:group:vo%2Enotebooks%2Eegi%2Eeu#aai.egi.eu", [VO]),
        ("urn:mace:egi.eu:group:a%20vo#aai.egi.eu", ["a vo"]),
        ("urn:mace:egi.eu:group:a+vo#aai.egi.eu", ["a vo"]),
        (LAGO, ["LAGO-AAI"]),
        (LAGO.replace("#", ":role=member#"), ["LAGO-AAI"]),
        # Near misses.
        (f"urn:mace:egi.eu:group:{VO}:guests#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}:guests:role=member#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}%3Aguests#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}.evil.example#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:evil.{VO}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:evil:{VO}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO.upper()}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}#aai.egi.eu.evil.example", []),
        (f"urn:mace:egi.eu:group:{VO}#aai-demo.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}#AAI.EGI.EU", []),
        (f"urn:mace:egi.eu:group:{VO}# aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}#evil.example#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:{VO}%23aai.egi.eu#evil.example", []),
        (f"urn:mace:egi.eu.evil.example:group:{VO}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:sub:group:{VO}#aai.egi.eu", []),
        (f"urn:geant:egi.eu:group:{VO}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:group:evil:group:{VO}#aai.egi.eu", []),
        (f"urn:mace:egi.eu:res:{VO}#aai.egi.eu", []),
        (VO, []),
        ("urn:mace:egi.eu:group:vo.not-permitted#aai.egi.eu", []),
        # The name of a VO that another source speaks for, from the source that speaks for the rest.
        ("urn:mace:egi.eu:group:LAGO-AAI#aai.egi.eu", []),
        (LAGO.replace("#", ":sub#"), []),
        (f"urn:geant:eduteams.org:service:eduteams:group:{VO}#eduteams.org", []),
    ],
)
def test_membership_is_proved_by_whole_parts_only(text: str, names: list[str]) -> None:
    assert proved_by(text) == names


@pytest.mark.parametrize(
    ("claims", "names"),
    [
        ({}, []),
        ({"entitlements": [f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"]}, [VO]),
        ({"eduperson_entitlement": [f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"]}, [VO]),
        ({"eduperson_entitlement": f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"}, [VO]),
        (
            {"entitlements": [LAGO], "eduperson_entitlement": [f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"]},
            ["LAGO-AAI", VO],
        ),
        ({"entitlements": [], "eduperson_entitlement": [f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"]}, [VO]),
        ({"groups": [f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"]}, []),
        ({"entitlements": None, "eduperson_entitlement": 7}, []),
        ({"entitlements": [None, 7, {}, [LAGO], b"x", LAGO]}, ["LAGO-AAI"]),
        ({"entitlements": {LAGO: LAGO}}, []),
    ],
)
def test_both_claims_count_together_and_garbage_counts_for_nothing(claims: dict[str, object], names: list[str]) -> None:
    assert RULES.memberships(ReleasedEntitlements.of_claims(claims)) == names


def test_what_is_no_group_or_cannot_be_read_is_kept_for_the_log() -> None:
    released = ReleasedEntitlements.of_claims(
        {"entitlements": ["urn:mace:egi.eu:group:%ff#aai.egi.eu", 7, "urn:mace:egi.eu:res:x#aai.egi.eu"]}
    )
    assert released.unread == ("'urn:mace:egi.eu:group:%ff#aai.egi.eu'", "7", "'urn:mace:egi.eu:res:x#aai.egi.eu'")


def test_a_role_or_a_subgroup_that_is_named_in_full_has_to_be_there() -> None:
    full = {"managers": "urn:mace:egi.eu:group:vo.x:ops:role=manager#aai.egi.eu"}
    rules = MembershipRules.of(["managers"], [], full)
    assert proved_by("urn:mace:egi.eu:group:vo.x:ops:role=manager#aai.egi.eu", rules=rules) == ["managers"]
    assert proved_by("urn:mace:egi.eu:group:vo.x:ops:role=member#aai.egi.eu", rules=rules) == []
    assert proved_by("urn:mace:egi.eu:group:vo.x:role=manager#aai.egi.eu", rules=rules) == []


def test_an_entitlement_of_the_configuration_that_is_none_is_refused_with_its_form() -> None:
    with pytest.raises(ValueError, match="NAMESPACE:group:GROUP"):
        MembershipRules.of(["LAGO-AAI"], [], {"LAGO-AAI": "LAGO-AAI"})


_ALMOST = st.lists(
    st.sampled_from(
        ["urn:mace:egi.eu", ":group", ":", "#", VO, "aai.egi.eu", "role=", "%", "%3A", "%23", "+", " ", "."]
    )
    | st.text(max_size=3),
    max_size=9,
).map("".join)


@given(st.text() | _ALMOST)
@example("urn:mace:egi.eu:group:\ud800#aai.egi.eu")
def test_no_text_is_an_error_and_only_the_one_spelling_is_a_membership(text: str) -> None:
    names = proved_by(text)
    parsed = GroupEntitlement.parse(text)
    if VO in names:
        assert parsed is not None
        assert (parsed.source, parsed.groups) == (EGI, (VO,))
        assert text.endswith("#aai.egi.eu")
    if parsed is None:
        assert names == []


_INSERTED = st.text(min_size=1, max_size=8) | st.sampled_from([":role=x", ":sub", "#", ".evil", " "])


@given(place=st.integers(min_value=0), inserted=_INSERTED)
def test_nothing_can_be_put_into_a_membership_and_leave_it_one(place: int, inserted: str) -> None:
    text = f"urn:mace:egi.eu:group:{VO}#aai.egi.eu"
    at = place % (len(text) + 1)
    changed = text[:at] + inserted + text[at:]
    start = text.index(VO) + len(VO)
    if at == start and inserted.startswith(":role="):
        return
    assert VO not in proved_by(changed)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["entitlements", "eduperson_entitlement", "sub"]), _ANYTHING))
def test_no_claims_are_an_error(claims: dict[str, object]) -> None:
    assert RULES.memberships(ReleasedEntitlements.of_claims(claims)) == []


def operations(text: str) -> int:
    """How many steps the interpreter takes to read this: each is of a time that does not depend on the text, or passes over it once."""
    count = 0

    def step(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event in {"opcode", "call"}
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        GroupEntitlement.parse(text)
    finally:
        sys.settrace(before)
    return count


_REPEATED = st.sampled_from(
    [":", "#", "%", "%41", "%FF", "+", ":a", "a:", ":role=", ":role=a", ":group", "group:", "é"]
)


@settings(max_examples=60, deadline=None)
@given(
    before=st.sampled_from(["", "urn:mace:egi.eu:group", "urn:mace:egi.eu:group:a"]),
    repeated=_REPEATED | st.text(min_size=1, max_size=4),
    after=st.sampled_from(["", "#aai.egi.eu", ":role=a#aai.egi.eu"]),
)
def test_reading_takes_time_linear_in_the_length(before: str, repeated: str, after: str) -> None:
    small, medium, large = (operations(before + repeated * count + after) for count in (50, 100, 200))
    # Twice as much more text takes twice as many more steps; a square would take four times as many, and more.
    assert large - medium <= 2.5 * (medium - small) + 100


def test_only_so_many_entitlements_of_one_person_are_read() -> None:
    read = ReleasedEntitlements.of_claims(
        {"entitlements": [f"urn:x:y:group:{n}#z" for n in range(MOST_ENTITLEMENTS + 5)]}
    )
    assert len(read.groups) == MOST_ENTITLEMENTS


def test_a_long_text_is_short_in_the_log() -> None:
    (told,) = ReleasedEntitlements.of_claims({"entitlements": ["\n" * 100_000]}).unread
    assert len(told) <= 200
    assert "\n" not in told
