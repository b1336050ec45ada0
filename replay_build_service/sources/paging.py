"""Lists that an archive gives page by page: from the first page on, to the last, and never without an end.

Which page comes next is counted here. What an answer says of the next one tells that there is one, and no address is taken from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from replay_build_service.errors import Refused, SourceFault

__all__ = ["pages"]

_Page = TypeVar("_Page")


async def pages(
    page: Callable[[int], Awaitable[_Page]],
    entries: Callable[[_Page], Sequence[object]],
    *,
    goes_on: Callable[[_Page], bool],
    most: int,
    too_many: Callable[[], str],
) -> AsyncIterator[_Page]:
    """Each page, asked for by its number from 1 on, until ``goes_on`` says that none follows.

    Raises what ``page`` raises; `SourceFault` where an archive gives the entries of the page before once more; and `Refused`, in the sentence of
    ``too_many``, where more follow than ``most``.
    """
    before: Sequence[object] | None = None
    for number in range(1, most + 1):
        answer = await page(number)
        if before is not None and entries(answer) == before:
            raise SourceFault("The archive lists the same files again and again. Try again later.")
        yield answer
        if not goes_on(answer):
            return
        before = entries(answer)
    raise Refused(too_many())
