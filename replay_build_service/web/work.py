"""``GET launches/ID/work``: what the person made in a session that runs, as one archive.

It only reads, and what it reads goes to a browser of the person's own, as a file: so no XSRF token is asked for. But it is work for
the session and for this process; a page of somebody else's cannot cause it, and one person gets one at a time.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

from tornado import web
from tornado.iostream import StreamClosedError

from replay_build_service.domain import Launch, LaunchId, LaunchState
from replay_build_service.errors import Conflict, SourceFault
from replay_build_service.schemas import ReadingModel
from replay_build_service.web.base import PageHandler, PlainHandler
from replay_build_service.work import Entry, JupyterFiles, Listing, SessionSilent, Unreadable, pack

log = logging.getLogger(__name__)

TAKING_SECONDS = 120.0
"""How long whoever downloads may take no further piece."""

DATA_FEATURE = "datahub"
"""Gives a session folders that are mounted, and that are left out: they are elsewhere, and may be endless."""

_SPACES = re.compile(r"datahub(?P<more>-spaces(-(?P<number>\d{1,9}))?)?")


class WorkDownload(PageHandler):
    """For the person whose launch it is, while it runs."""

    _task: "asyncio.Task[None] | None" = None

    def on_connection_close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def get(self, launch_id: str) -> None:
        if self.request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise web.HTTPError(403, "Another site sent you here. Open Replay's home and download your work there.")
        launch = await self.site.launches.get(self.person, LaunchId(launch_id))
        if launch.state is not LaunchState.RUNNING:
            raise Conflict("This session does not run, so there is nothing of it to download.")
        with self.site.work_at_once.held(self.person.name):
            self.site.work_limit.take(self.person.name)
            # From here on: whoever goes away ends it, whatever the session is doing.
            self._task = asyncio.current_task()
            try:
                await self._download(launch)
            finally:
                self._task = None

    async def _download(self, launch: Launch) -> None:
        token = cast(str, self.hub_auth.get_token(self))  # `prepare` has read it

        async def reading() -> ReadingModel:
            return await self.site.read_session(launch.user, launch.id, token)

        async with JupyterFiles(reading) as files:
            try:
                root = await files.listing(())
            except SessionSilent as error:
                raise SourceFault("Your session does not answer just now. Try again in a moment.") from error
            except Unreadable as error:
                log.info("Launch %s gives no files: %s", launch.id, error)
                raise Conflict(
                    "Your session does not show its files in Jupyter's way, so they cannot be packed here. "
                    "Open it, and download there what you want to keep."
                ) from error
            await self._send(files, root, launch)

    async def _send(self, files: JupyterFiles, root: Listing, launch: Launch) -> None:
        name = archive_name(launch, datetime.now(UTC))
        self.set_header("Content-Type", "application/zip")
        self.set_header("Content-Disposition", f'attachment; filename="{name}.zip"')
        self.set_header("X-Accel-Buffering", "no")
        try:
            async with aclosing(pack(files, root, name, left_out=mounted(launch.features, root.entries))) as pieces:
                async for piece in pieces:
                    if piece:
                        self.write(piece)
                        async with asyncio.timeout(TAKING_SECONDS):
                            await self.flush()
        except (StreamClosedError, asyncio.CancelledError):
            log.info("The download of launch %s was given up", launch.id)
            raise web.Finish() from None
        except TimeoutError:
            log.info("The download of launch %s was not taken for %s seconds", launch.id, TAKING_SECONDS)
            self._break_off()
        except Exception:
            # Part of the archive has gone out, so no page can tell of it any more; whatever it is, it must not end as if it were whole.
            log.exception("The download of launch %s broke", launch.id)
            self._break_off()

    def _break_off(self) -> None:
        """Without an end, so that the browser calls it a failed download, and not a whole one."""
        self.detach().close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A page for a browser; for a program what the API answers."""
        answers: type[PlainHandler] = PlainHandler if getattr(self, "_token_authenticated", False) else PageHandler
        answers.write_error(self, status_code, **kwargs)


def archive_name(launch: Launch, now: datetime) -> str:
    """By repository and moment, in letters that no header and no file system minds."""
    repository = re.sub(r"[^A-Za-z0-9._-]+", "-", launch.resolved.repository.short.rsplit("/", 1)[-1])
    return f"{repository.strip('-._')[:60] or 'session'}-{now:%Y%m%d-%H%M%S}"


def mounted(features: tuple[str, ...], entries: Sequence[Entry]) -> frozenset[str]:
    """Which folder of a session has DataHub's spaces: of its names (`replay_spawner.features.datahub`) the last that is there.

    Those before it are the repository's own, which is why it is not called so.
    """
    if DATA_FEATURE not in features:
        return frozenset()
    found = [(match, entry.name) for entry in entries if (match := _SPACES.fullmatch(entry.name))]
    found.sort(key=lambda one: (one[0]["more"] is not None, int(one[0]["number"] or 0)))
    return frozenset(name for _, name in found[-1:])
