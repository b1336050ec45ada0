"""git's pkt-lines and lists of refs, read: what servers say, and what nobody should.

``REPLAY_TEST_INPUTS=1000000`` tries as many.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from replay_build_service.git_listing import (
    Abilities,
    NotUnderstood,
    RemoteRefs,
    read_abilities,
    read_advertisement,
    read_ls_refs,
    write_ls_refs,
)
from replay_build_service.pkt_lines import LONGEST_LINE, MalformedLines, Mark, pkt_line, read_lines
from tests.unit.broken_texts import how_many

pytestmark = pytest.mark.hub_independent

URL = "https://forge.example.org/o/r"
ONE, TWO, TAG, LONG = "1" * 40, "2" * 40, "a" * 40, "b" * 64
ANY = settings(max_examples=how_many(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
SERVICE = b"001e# service=git-upload-pack\n0000"


def lines(*texts: str) -> bytes:
    return b"".join(map(pkt_line, texts))


# ---- pkt-lines


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=50) | st.sampled_from(Mark)))
@ANY
def test_what_is_written_is_read(parts: list[str | Mark]) -> None:
    written = b"".join(part.value if isinstance(part, Mark) else pkt_line(part) for part in parts)
    assert list(read_lines(written)) == [part if isinstance(part, Mark) else part.encode() for part in parts]


@pytest.mark.parametrize(
    "data",
    [
        b"0",
        b"000",
        b"0003",
        b"0005",
        b"0006a",
        b"00 5a",
        b"+005a",
        b"0x5a",
        b"0_05a",
        b"zzzz",
        b"\xff\xff\xff\xff",
        b"fff1" + b"a" * 65_600,
    ],
)
def test_what_is_no_line_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedLines):
        list(read_lines(data))


def test_a_line_has_a_greatest_length() -> None:
    longest = "a" * (LONGEST_LINE - 1)
    assert list(read_lines(pkt_line(longest))) == [longest.encode()]
    with pytest.raises(ValueError, match="65516"):
        pkt_line(longest + "a")


# ---- lists of refs

_FULL = RemoteRefs(
    URL,
    "refs/heads/main",
    {"HEAD": ONE, "refs/heads/main": ONE, "refs/pull/1/head": TWO, "refs/tags/v1": TAG},
    {"refs/tags/v1": ONE},
)
_ADVERTISED = lines(
    f"{ONE} HEAD\0multi_ack symref=HEAD:refs/heads/main object-format=sha1 agent=git/2.39",
    f"{ONE} refs/heads/main",
    f"{TWO} refs/pull/1/head",
    f"{TAG} refs/tags/v1",
    f"{ONE} refs/tags/v1^{{}}",
)


@pytest.mark.parametrize(
    ("data", "refs"),
    [
        pytest.param(SERVICE + _ADVERTISED + b"0000", _FULL, id="version 0"),
        pytest.param(SERVICE + lines("version 1") + _ADVERTISED + b"0000", _FULL, id="version 1"),
        pytest.param(_ADVERTISED + b"0000", _FULL, id="without the service"),
        pytest.param(SERVICE + _ADVERTISED + lines(f"shallow {TWO}") + b"0000", _FULL, id="of a shallow repository"),
        pytest.param(
            SERVICE + lines(f"{'0' * 40} capabilities^{{}}\0agent=git/2") + b"0000",
            RemoteRefs(URL, None, {}, {}),
            id="empty",
        ),
        pytest.param(
            SERVICE + lines(f"{LONG} refs/heads/é\0") + b"0000",
            RemoteRefs(URL, None, {"refs/heads/é": LONG}, {}),
            id="SHA-256",
        ),
    ],
)
def test_all_refs_are_read_from_the_first_answer(data: bytes, refs: RemoteRefs) -> None:
    assert read_advertisement(URL, data) == refs


def test_refs_are_read_from_the_second_answer_of_version_2() -> None:
    abilities = read_abilities(
        SERVICE + lines("version 2", "agent=git/2", "ls-refs=unborn", "object-format=sha1") + b"0000"
    )
    assert abilities == Abilities("sha1")
    assert read_abilities(lines("version 2", "ls-refs") + b"0000") == Abilities(None)
    asked = list(read_lines(write_ls_refs(abilities, ("HEAD", "refs/tags/"), "replay")))
    assert asked == [
        b"command=ls-refs", b"agent=replay", b"object-format=sha1", Mark.DELIMITER,
        b"peel", b"symrefs", b"ref-prefix HEAD", b"ref-prefix refs/tags/", Mark.FLUSH,
    ]  # fmt: skip
    said = lines(f"{ONE} HEAD symref-target:refs/heads/main", f"{TAG} refs/tags/v1 peeled:{ONE}") + b"0000"
    refs = RemoteRefs(URL, "refs/heads/main", {"HEAD": ONE, "refs/tags/v1": TAG}, {"refs/tags/v1": ONE}, is_whole=False)
    assert read_ls_refs(URL, said) == refs
    unborn = lines("unborn HEAD symref-target:refs/heads/main") + b"0000"
    assert read_ls_refs(URL, unborn) == RemoteRefs(URL, None, {}, {}, is_whole=False)


_BAD_LISTS = [
    b"",
    b"0000",
    SERVICE,
    SERVICE + _ADVERTISED,
    SERVICE + _ADVERTISED + b"0000" + lines("more"),
    SERVICE + _ADVERTISED + b"0001",
    SERVICE + lines("version 2", "ls-refs") + b"0000",
    SERVICE + lines("ERR access denied") + b"0000",
    SERVICE + lines(f"{ONE[:39]} refs/heads/main") + b"0000",
    SERVICE + lines(f"{'A' * 40} refs/heads/main") + b"0000",
    SERVICE + lines(f"{ONE} ") + b"0000",
    SERVICE + lines(f"{ONE}") + b"0000",
    SERVICE + lines(f"{ONE} refs/heads/a b") + b"0000",
    SERVICE + lines(f"{ONE} refs/heads/a\nb") + b"0000",
    SERVICE + lines(f"{ONE} refs/heads/a", f"{ONE} refs/heads/b\0c") + b"0000",
]


@pytest.mark.parametrize("data", _BAD_LISTS, ids=range(len(_BAD_LISTS)))
def test_what_is_no_list_is_not_understood(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        read_advertisement(URL, data)


@pytest.mark.parametrize(
    "data",
    [
        SERVICE + _ADVERTISED + b"0000",
        lines("version 2", "fetch") + b"0000",
        lines("version 2", "ls-refs", "object-format=sha3") + b"0000",
    ],
    ids=["version 0", "no ls-refs", "other objects"],
)
def test_a_server_that_cannot_be_asked_for_some_refs_is_not_understood(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        read_abilities(data)


_PIECES = st.sampled_from(
    [
        SERVICE,
        b"0000",
        b"0001",
        b"0002",
        lines("version 2"),
        lines(f"{ONE} HEAD\0symref=HEAD:x"),
        lines(f"{TAG} refs/tags/v1 peeled:x"),
    ]
)


@given(
    st.binary(max_size=200)
    | st.lists(_PIECES | st.binary(max_size=20).map(lambda text: b"%04x" % (len(text) + 4) + text)).map(b"".join)
)
@example(b"0000")
@ANY
def test_whatever_a_server_sends_is_a_list_or_not_understood(data: bytes) -> None:
    for read in (read_advertisement, read_ls_refs):
        with suppress(NotUnderstood):
            refs = read(URL, data)
            assert all(len(sha) in {40, 64} for sha in (*refs.refs.values(), *refs.peeled.values()))
    with suppress(NotUnderstood):
        read_abilities(data)


@given(st.binary(max_size=12), st.integers(0, 400))
@ANY
def test_a_list_that_is_damaged_anywhere_is_a_list_or_not_understood(damage: bytes, at: int) -> None:
    whole = SERVICE + _ADVERTISED + b"0000"
    with suppress(NotUnderstood):
        read_advertisement(URL, whole[:at] + damage + whole[at + len(damage) :])


def test_a_list_that_ends_early_is_not_understood() -> None:
    whole = SERVICE + _ADVERTISED + b"0000"
    for end in range(len(whole)):
        with pytest.raises(NotUnderstood):
            read_advertisement(URL, whole[:end])
