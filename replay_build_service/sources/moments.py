"""The moments that archives give, as versions. Standard library only."""

from __future__ import annotations

from datetime import UTC, datetime

from replay_build_service.errors import SourceFault

__all__ = ["version_of"]

_AMERICAN_DAY = "%m-%d-%Y"


def version_of(moment: str) -> str:
    """A moment as the version of what was changed then last: ``20240131T120000``, in UTC; of a day without a time, ``20240131``.

    For archives that count no versions. Raises `SourceFault` for what is no moment.
    """
    text = moment.strip()
    try:
        if len(text) <= 10:
            day = datetime.fromisoformat(text) if text[:4].isdigit() else datetime.strptime(text, _AMERICAN_DAY)
            return f"{day:%Y%m%d}"
        parsed = datetime.fromisoformat(text)
        # What names no zone is UTC with all of them.
        exact = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        return f"{exact:%Y%m%dT%H%M%S}"
    except (ValueError, OverflowError) as error:
        raise SourceFault("The archive's answer was not understood: it names no date. Try again later.") from error
