"""What managers write, taken in: bounded, visible, and of one kind. Pure."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta

from replay_build_service.errors import BadLink

MOST_YEARS = 5
"""How far ahead an end may lie."""

_MINUTE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")


def line(text: str, what: str, most: int, *, may_be_empty: bool = False) -> str:
    """One line of text without the spaces around it. Raises `BadLink` with what to do."""
    found = " ".join(text.split())
    return _checked(found, what, most, may_be_empty=may_be_empty)


def paragraphs(text: str, what: str, most: int, *, may_be_empty: bool = False) -> str:
    """Lines of text; other control characters are refused. Raises `BadLink`."""
    found = "\n".join(part.rstrip() for part in text.replace("\r\n", "\n").strip().split("\n"))
    return _checked(found, what, most, may_be_empty=may_be_empty)


def _checked(text: str, what: str, most: int, *, may_be_empty: bool) -> str:
    if not text and not may_be_empty:
        raise BadLink(f"{what} is missing. Fill it in and send the form again.")
    if len(text) > most:
        raise BadLink(f"{what} has {len(text)} characters, and at most {most} are kept. Shorten it.")
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in text.replace("\n", "")):
        raise BadLink(f"{what} holds characters that cannot be seen. Type it instead of copying it.")
    return text


def moment(text: str, what: str) -> datetime:
    """A minute in UTC, as ``<input type="datetime-local">`` sends it. Raises `BadLink`."""
    if not _MINUTE.fullmatch(text.strip()[:16]) or text.strip()[16:] not in {"", ":00"}:
        raise BadLink(f"{what} should read like 2026-11-30T09:00, in UTC.")
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadLink(f"{what} is no date that there is. It should read like 2026-11-30T09:00, in UTC.") from error


def end(text: str, what: str, now: datetime) -> datetime:
    """A moment that is still to come. Raises `BadLink`."""
    found = moment(text, what)
    if found <= now:
        raise BadLink(f"{what} is over already. It is in UTC, where it is {now:%Y-%m-%dT%H:%M} now.")
    if found > now + timedelta(days=366 * MOST_YEARS):
        raise BadLink(f"{what} is more than {MOST_YEARS} years ahead. Choose an earlier one.")
    return found
