"""Who manages a VO and what managers decide: for their own VO alone, on record, and from that moment on. The store is the real one."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replay_build_service.db import Store
from replay_build_service.domain import (
    Person,
)
from replay_build_service.errors import BadLink, Conflict, NotFound, NotPermitted
from replay_build_service.managing import decisions
from replay_build_service.managing.admission import Manager, admit, managed_vos
from replay_build_service.managing.decisions import Decisions
from replay_build_service.records import Action, Effect
from tests.unit.core_fakes import a_store
from tests.unit.managing_cases import ONE, TWO, VOS, audit, decisions_over

pytestmark = pytest.mark.hub_independent


@pytest.fixture
def deciding(store: Store) -> Decisions:
    return decisions_over(store)


# who manages what


@pytest.mark.parametrize(
    ("groups", "managed"),
    [
        (set(), []),
        ({"vo.one"}, []),
        ({"vo.one:managers"}, ["vo.one"]),
        ({"vo.one:managers", "vo.two:managers"}, ["vo.one", "vo.two"]),
        ({"vo.three:managers"}, []),
        ({"vo.one:managers:managers"}, []),
        ({"vo.one:Managers"}, []),
        ({"xvo.one:managers"}, []),
        ({"vo.one:managers.evil.example"}, []),
        ({":managers"}, []),
    ],
)
def test_the_managers_of_a_vo_are_in_its_managers_group_and_in_no_group_like_it(
    groups: set[str], managed: list[str]
) -> None:
    person = Person("ada", frozenset(groups))
    assert managed_vos(person, VOS, is_admin=False) == managed
    for vo in ("vo.one", "vo.two", "vo.three", ""):
        if vo in managed:
            assert admit(person, vo, VOS, is_admin=False) == Manager("ada", vo)
        else:
            with pytest.raises(NotPermitted):
                admit(person, vo, VOS, is_admin=False)


def test_administrators_manage_each_vo_that_there_is() -> None:
    root = Person("root")
    assert managed_vos(root, VOS, is_admin=True) == ["vo.one", "vo.two"]
    with pytest.raises(NotPermitted):
        admit(root, "vo.three", VOS, is_admin=True)


def test_membership_of_a_vo_that_is_named_like_anothers_managers_makes_nobody_a_manager() -> None:
    vos = VOS | {"vo.one:managers"}
    assert managed_vos(Person("ada", frozenset({"vo.one:managers"})), vos, is_admin=False) == []


def test_whether_a_vo_exists_is_not_told() -> None:
    told = set()
    for vo in ("vo.two", "vo.three"):
        with pytest.raises(NotPermitted) as refused:
            admit(Person("ada", frozenset({"vo.one:managers"})), vo, VOS, is_admin=False)
        told.add(str(refused.value))
    assert len(told) == 1


# decisions


async def test_what_was_decided_holds_at_once_for_that_vo_alone_and_after_a_restart(
    store: Store, deciding: Decisions, tmp_path: Path
) -> None:
    await deciding.rule(ONE, Effect.DENY, "https://GitHub.com/Owner/*", "not ours")
    await deciding.rule(ONE, Effect.ALLOW, "gh/owner/good", "")
    await deciding.block(ONE, "ada", "mining", "")
    await deciding.set_banner(ONE, "Down\r\non Friday ")
    await deciding.set_terms(ONE, "Be kind.")
    async with a_store(tmp_path) as again:
        found = await again.rulings_of("vo.one")
        other = await again.rulings_of("vo.two")
    assert (found.denied, found.allowed) == (("github.com/owner/*",), ("github.com/owner/good",))
    assert [(block.user, block.reason, block.until) for block in found.blocks] == [("ada", "mining", None)]
    assert found.banner == "Down\non Friday"
    assert found.terms is not None
    assert found.terms.text == "Be kind."
    assert (other.denied, other.blocks, other.banner, other.terms) == ((), (), None, None)
    assert await audit(store, "vo.two") == []
    assert await audit(store, "vo.one") == [
        ("mia", Action.DENY_REPOSITORY, "github.com/owner/*"),
        ("mia", Action.ALLOW_REPOSITORY, "github.com/owner/good"),
        ("mia", Action.BLOCK_PERSON, "ada"),
        ("mia", Action.SET_BANNER, "Down\non Friday"),
        ("mia", Action.SET_TERMS, f"version {found.terms.version}"),
    ]


async def test_what_was_decided_is_taken_back(store: Store, deciding: Decisions) -> None:
    await deciding.rule(ONE, Effect.DENY, "github.com/owner/name", "")
    await deciding.block(ONE, "ada", "mining", "")
    await deciding.set_banner(ONE, "")
    await deciding.set_terms(ONE, "Be kind.")
    assert (await store.rulings_of("vo.one")).banner == "", "none is shown, whatever the policy has"
    (rule,) = await store.repository_rules("vo.one")
    await deciding.remove_rule(ONE, rule.id)
    await deciding.lift_block(ONE, "ada")
    await deciding.set_banner(ONE, None)
    await deciding.set_terms(ONE, None)
    found = await store.rulings_of("vo.one")
    assert (found.denied, found.blocks, found.banner, found.terms) == ((), (), None, None)
    assert (await audit(store))[4:] == [
        ("mia", Action.REMOVE_RULE, "deny: github.com/owner/name"),
        ("mia", Action.LIFT_BLOCK, "ada"),
        ("mia", Action.SET_BANNER, "as in the policy"),
        ("mia", Action.SET_TERMS, "as in the policy"),
    ]


async def test_the_manager_of_another_vo_takes_nothing_back(store: Store, deciding: Decisions) -> None:
    await deciding.rule(ONE, Effect.DENY, "github.com/owner/name", "")
    await deciding.block(ONE, "ada", "mining", "")
    (rule,) = await store.repository_rules("vo.one")
    with pytest.raises(NotFound):
        await deciding.remove_rule(TWO, rule.id)
    with pytest.raises(NotFound):
        await deciding.lift_block(TWO, "ada")
    found = await store.rulings_of("vo.one")
    assert (found.denied, len(found.blocks)) == (("github.com/owner/name",), 1)
    assert await audit(store, "vo.two") == []


async def test_a_later_decision_on_the_same_takes_the_place_of_the_earlier(store: Store, deciding: Decisions) -> None:
    await deciding.rule(ONE, Effect.DENY, "github.com/owner/name", "")
    await deciding.rule(ONE, Effect.ALLOW, "https://github.com/Owner/name.git", "")
    await deciding.block(ONE, "ada", "mining", "")
    await deciding.block(ONE, "ada", "mining again", "")
    found = await store.rulings_of("vo.one")
    assert (found.denied, found.allowed) == ((), ("github.com/owner/name",))
    assert [block.reason for block in found.blocks] == ["mining again"]


@pytest.mark.parametrize("typed", ["ada123@egi.eu", " ADA123@egi.eu ", "Ada123@EGI.eu"])
async def test_a_block_is_of_the_person_whom_the_hub_has_however_the_name_was_typed(
    store: Store, deciding: Decisions, typed: str
) -> None:
    await deciding.block(ONE, "ADA123@egi.eu", "before", "")
    assert await deciding.block(ONE, typed, "mining", "") == "ada123@egi.eu"
    rulings = await store.rulings_of("vo.one")
    assert [block.user for block in rulings.blocks] == ["ada123@egi.eu"]
    with pytest.raises(BadLink, match="That is you"):
        await deciding.block(ONE, ONE.name.upper(), "x", "")


async def test_a_block_ends_by_itself(store: Store, deciding: Decisions, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    await deciding.block(ONE, "ada", "for today", f"{soon:%Y-%m-%dT%H:%M}")
    (block,) = (await store.rulings_of("vo.one")).blocks
    assert block.until == soon.replace(second=0, microsecond=0)
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database, database:
        database.execute("UPDATE vo_blocks SET until = '2020-01-01 00:00:00.000000'")
    assert (await store.rulings_of("vo.one")).blocks == ()
    assert await store.blocks("vo.one") == []
    with pytest.raises(NotFound):
        await deciding.lift_block(ONE, "ada")
    await deciding.set_banner(ONE, "anything")
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM vo_blocks").fetchone() == (0,), "kept no longer than needed"


async def test_each_text_of_the_terms_is_a_version_of_its_own(store: Store, deciding: Decisions) -> None:
    versions = []
    for text in ("Be kind.", "Be very kind.", "Be kind."):
        await deciding.set_terms(ONE, text)
        terms = (await store.rulings_of("vo.one")).terms
        assert terms is not None
        versions.append(terms.version)
    assert versions[0] == versions[2] != versions[1]


TOMORROW = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("user", "reason", "until", "told"),
    [
        ("", "x", "", "The person’s name is missing"),
        ("a" * 256, "x", "", "256 characters, and at most 255"),
        ("ada\N{RIGHT-TO-LEFT OVERRIDE}", "x", "", "cannot be seen"),
        ("ada", " ", "", "The reason is missing"),
        ("ada", "x" * 501, "", "501 characters, and at most 500"),
        ("ada", "x\x00", "", "cannot be seen"),
        ("ada", "x", "tomorrow", "should read like"),
        ("ada", "x", "2026-02-30T10:00", "no date that there is"),
        ("ada", "x", "2020-01-01T10:00", "is over already"),
        ("ada", "x", "2999-01-01T10:00", "more than 5 years ahead"),
        ("ada", "x", "2030-01-01T10:00+02:00", "should read like"),
        ("mia", "x", "", "That is you"),
    ],
)
async def test_a_block_that_cannot_be_meant_is_refused_and_nothing_is_stored(
    store: Store, deciding: Decisions, user: str, reason: str, until: str, told: str
) -> None:
    with pytest.raises(BadLink, match=told):
        await deciding.block(ONE, user, reason, until)
    assert await store.blocks("vo.one") == []
    assert await audit(store) == []


async def test_there_are_bounds_to_what_one_vo_may_decide(
    store: Store, deciding: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_RULES", 2)
    monkeypatch.setattr(decisions, "MOST_BLOCKS", 2)
    for number in range(2):
        await deciding.rule(ONE, Effect.DENY, f"github.com/owner/{number}", "")
        await deciding.block(ONE, f"person-{number}", "x", "")
    before = await audit(store)
    with pytest.raises(Conflict, match="2 rules already"):
        await deciding.rule(ONE, Effect.DENY, "github.com/owner/another", "")
    with pytest.raises(Conflict, match="2 blocks already"):
        await deciding.block(ONE, "another", "x", "")
    with pytest.raises(BadLink, match="at most 1000"):
        await deciding.set_banner(ONE, "x" * 1001)
    with pytest.raises(BadLink, match="at most 20000"):
        await deciding.set_terms(ONE, "x" * 20_001)
    with pytest.raises(BadLink, match="missing"):
        await deciding.set_terms(ONE, " ")
    assert await audit(store) == before
    await deciding.rule(ONE, Effect.ALLOW, "github.com/owner/1", "")
    await deciding.block(ONE, "person-1", "again", "")
    await deciding.block(TWO, "another", "x", "")


# the audit log


async def test_a_decision_that_cannot_be_put_on_record_does_not_hold(
    store: Store, deciding: Decisions, tmp_path: Path
) -> None:
    await deciding.block(ONE, "ada", "mining", "")
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database, database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    for decide in (
        deciding.rule(ONE, Effect.DENY, "github.com/owner/name", ""),
        deciding.block(ONE, "boris", "mining", ""),
        deciding.lift_block(ONE, "ada"),
        deciding.set_banner(ONE, "x"),
        deciding.set_terms(ONE, "x"),
    ):
        with pytest.raises(Exception, match="the disk is full"):
            await decide
    found = await store.rulings_of("vo.one")
    assert (found.denied, found.banner, found.terms) == ((), None, None)
    assert [block.user for block in found.blocks] == ["ada"]


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
async def test_the_database_itself_keeps_the_audit_log_from_being_changed(
    deciding: Decisions, store: Store, tmp_path: Path, statement: str
) -> None:
    await deciding.set_banner(ONE, "x")
    with (
        closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database,
        pytest.raises(sqlite3.IntegrityError, match="only ever added to"),
    ):
        database.execute(statement)
    assert len(await audit(store)) == 1


async def test_the_audit_log_is_read_page_by_page(store: Store, deciding: Decisions) -> None:
    for number in range(5):
        await deciding.set_banner(ONE if number % 2 else TWO, str(number))
    newest = await store.audit(None, None, 2)
    older = await store.audit(None, newest[-1].id, 2)
    assert [entry.decision.subject for entry in [*newest, *older]] == ["4", "3", "2", "1"]
    assert [entry.decision.subject for entry in await store.audit("vo.one", None, 10)] == ["3", "1"]
