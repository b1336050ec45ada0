"""What managers decide about repositories, people, the banner and the terms of use. Knows the store by its protocol.

Each decision is stored together with its entry in the audit log and counts from then on; nothing is kept in memory.
"""

import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from replay_build_service.errors import BadLink, Conflict, NotFound
from replay_build_service.managing import texts
from replay_build_service.managing.admission import Manager
from replay_build_service.records import Action, Decision, Effect, RepositoryRule
from replay_build_service.rulings import Block, Terms

MOST_RULES = 200
MOST_BLOCKS = 500
MOST_REASON = 500
"""Characters."""
MOST_BANNER = 1000
MOST_TERMS = 20_000
MOST_NAME = 255


class DecisionStore(Protocol):
    """What decisions ask of the database; each is one transaction. See `replay_build_service.db.Store`."""

    async def add_rule(self, rule: RepositoryRule, decision: Decision, most: int) -> bool: ...
    async def remove_rule(self, rule_id: str, decision: Decision) -> bool: ...
    async def put_block(self, block: Block, decision: Decision, most: int) -> bool: ...
    async def lift_block(self, user: str, decision: Decision) -> bool: ...
    async def set_banner(self, banner: str | None, decision: Decision) -> None: ...
    async def set_terms(self, terms: Terms | None, decision: Decision) -> None: ...


class Decisions:
    """What the managers of all VOs may decide, each for their own."""

    def __init__(self, store: DecisionStore, pattern_of: Callable[[str], str]) -> None:
        """``pattern_of`` gives a pattern its one spelling, and raises `BadLink` for what is none."""
        self._store = store
        self._pattern_of = pattern_of

    async def rule(self, manager: Manager, effect: Effect, pattern: str, reason: str) -> None:
        """Deny the repositories that a pattern names, or exempt them from what managers denied.

        Neither goes over the policy: what that denies, or does not allow, stays so. Raises `BadLink` and `Conflict`.
        """
        spelled = self._pattern_of(texts.line(pattern, "The pattern", 500))
        why = texts.line(reason, "The reason", MOST_REASON, may_be_empty=True)
        action = Action.DENY_REPOSITORY if effect is Effect.DENY else Action.ALLOW_REPOSITORY
        rule = RepositoryRule(secrets.token_hex(8), spelled, effect, why, manager.name, datetime.now(UTC))
        if not await self._store.add_rule(rule, _decision(manager, action, spelled, why), MOST_RULES):
            raise Conflict(
                f"{manager.vo} has {MOST_RULES} rules already, which is the limit. Remove one, or write a wider one."
            )

    async def remove_rule(self, manager: Manager, rule_id: str) -> None:
        """Raises `NotFound` for a rule of another VO, as for one that never was."""
        if not await self._store.remove_rule(rule_id, _decision(manager, Action.REMOVE_RULE, rule_id)):
            raise NotFound(f"{manager.vo} has no such rule any more. Look at the list again.")

    async def block(self, manager: Manager, user: str, reason: str, until: str) -> str:
        """Keep a person from launching for the VO, to a moment in UTC or until it is lifted; returns their name as the hub has it.

        Raises `BadLink` and `Conflict`.
        """
        # The hub keeps names in lower case, and lets people log in with any.
        name = texts.line(user, "The person’s name", MOST_NAME).lower()
        if name == manager.name.lower():
            raise BadLink("That is you. Another manager can block you.")
        why = texts.line(reason, "The reason", MOST_REASON)
        ends = texts.end(until, "The end", datetime.now(UTC)) if until.strip() else None
        told = f"{why} (until {ends:%Y-%m-%d %H:%M} UTC)" if ends else f"{why} (until it is lifted)"
        decision = _decision(manager, Action.BLOCK_PERSON, name, told)
        if not await self._store.put_block(Block(name, why, ends), decision, MOST_BLOCKS):
            raise Conflict(f"{manager.vo} has {MOST_BLOCKS} blocks already, which is the limit. Lift one first.")
        return name

    async def lift_block(self, manager: Manager, user: str) -> None:
        """Raises `NotFound` for somebody who is not blocked for this VO."""
        if not await self._store.lift_block(user, _decision(manager, Action.LIFT_BLOCK, user)):
            raise NotFound(f"That person is not blocked for {manager.vo} any more. Look at the list again.")

    async def set_banner(self, manager: Manager, text: str | None) -> None:
        """Show a text in place of the policy's banner, an empty one for none; ``None`` for the policy's. Raises `BadLink`."""
        banner = None if text is None else texts.paragraphs(text, "The banner", MOST_BANNER, may_be_empty=True)
        said = "as in the policy" if banner is None else banner or "none is shown"
        await self._store.set_banner(banner, _decision(manager, Action.SET_BANNER, said))

    async def set_terms(self, manager: Manager, text: str | None) -> None:
        """Ask for agreement to these terms in place of the policy's; ``None`` for the policy's. Raises `BadLink`.

        Their version is made from the day and the text, so that no two texts ever share one: who agreed to a version
        agreed to its text.
        """
        terms = None
        if text is not None:
            found = texts.paragraphs(text, "The text of the terms", MOST_TERMS)
            mark = hashlib.sha256(found.encode()).hexdigest()[:32]
            terms = Terms(f"{datetime.now(UTC):%Y-%m-%d}-{mark}", found)
        said = f"version {terms.version}" if terms else "as in the policy"
        await self._store.set_terms(terms, _decision(manager, Action.SET_TERMS, said))


def _decision(manager: Manager, action: Action, subject: str, reason: str = "") -> Decision:
    return Decision(manager.vo, manager.name, action, subject, reason)
