"""What is being done for one start, told to whoever follows it, from its beginning."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any


class Steps:
    """The steps so far. They are few, so all are kept."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._next = asyncio.Event()

    def tell(self, percent: int, message: str) -> None:
        """One more, in the form of JupyterHub's progress events."""
        self._steps.append({"progress": percent, "message": message})
        self._next.set()
        self._next = asyncio.Event()

    async def follow(self) -> AsyncGenerator[dict[str, Any]]:
        """All steps, as they come. It does not end by itself."""
        told = 0
        while True:
            while told < len(self._steps):
                told += 1
                yield dict(self._steps[told - 1])
            await self._next.wait()
