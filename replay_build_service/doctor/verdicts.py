"""What a check says: one of four states, what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check came out. Only `FAILED` makes the command fail."""

    OK = "ok"
    FAILED = "failed"
    NOT_KNOWN = "not known"
    """It could not be found out from here."""
    NOT_USED = "not used"
    """This deployment has no such thing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found. Sentences for an administrator, without a secret in them."""

    state: State
    message: str
    remedy: str = ""
    """What to do; empty where nothing has to be done."""


def ok(message: str, remedy: str = "") -> Verdict:
    """As it should be; ``remedy`` says how it could be better."""
    return Verdict(State.OK, message, remedy)


def failed(message: str, remedy: str) -> Verdict:
    """Something is wrong, and this is what to do."""
    return Verdict(State.FAILED, message, remedy)


def not_known(message: str, remedy: str) -> Verdict:
    """It cannot be told from here; ``remedy`` says how it could be."""
    return Verdict(State.NOT_KNOWN, message, remedy)


def not_used(message: str) -> Verdict:
    """There is nothing to look at."""
    return Verdict(State.NOT_USED, message)
