"""The feature “datahub”: a person's spaces of EGI DataHub in their session, and why not where they cannot be had.

What a session gets is a temporary token that Onezone gives for it, for one interface and a limited time, and that is renewed.
Where sessions are pods, a sidecar mounts the spaces with it; elsewhere Python reaches them by REST. Whatever the DataHub does,
the session starts: ``README.md`` in the folder says how it stands, and when it is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from replay_spawner.features.base import (
    HOME,
    Given,
    Platform,
    PodParts,
    SessionFile,
    TokenSource,
    Unavailable,
    half_of,
)
from replay_spawner.features.datahub import pods, texts
from replay_spawner.features.datahub.names import Space, folder_names, how_often, name_in_mount
from replay_spawner.features.datahub.onezone import Found, Limits, Onezone, TemporaryToken
from replay_spawner.features.datahub.settings import DataHubSettings

SCRIPT = Path(__file__).with_name("mount.sh")

AGAIN_SECONDS = 60.0
AGAIN_AT_MOST_SECONDS = 900.0
"""Between two tries of what failed, the longer it fails the more."""

LOOK_AGAIN_SECONDS = 1800.0
"""Where there are no spaces yet, and all is well."""

_GIVE_BACK_SECONDS = 2.0

TOKEN_VARIABLE = "REPLAY_DATAHUB_TOKEN_FILE"  # noqa: S105 - a name
CA_VARIABLE = "REPLAY_DATAHUB_CA_FILE"


class DataHub(DataHubSettings):
    """Spaces that the configured Oneprovider supports, as folders or by REST."""

    name = "datahub"
    title = "Your DataHub spaces"
    explanation = (
        "Whatever runs in this session can use the DataHub in your name while it runs: read your data and, unless this "
        "site says otherwise, change, delete and share it."
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._failed = 0
        """How often in a row."""
        self._expires_at: float | None = None
        """When the token that the session has ends; none where it has none."""
        self._token_due = 0.0
        """When it is time for another. Both in seconds since the epoch."""
        self._has_sidecar = False
        self._known: dict[str, Space] = {}
        """Spaces as the DataHub last named them, by ids."""

    # what a session is given

    async def prepare(self) -> Given:
        """Also where the DataHub does not answer: what belongs to a pod cannot come later."""
        given = await self._given_now(is_start=True)
        self._has_sidecar = bool(given.pod.containers)
        return given

    async def renew(self) -> Given:
        return await self._given_now(is_start=False)

    async def resume(self, files: Mapping[tuple[str, str], bytes]) -> Given:
        """Leave a token alone that is good for long: with another one, everything is mounted anew."""
        self._has_sidecar = self._is_mounted
        own = {pods.FILES, f"{HOME}/{self._folder}"}
        names = {name: content for (folder, name), content in files.items() if folder in own}
        if "README.md" in names and "expires" not in names:
            return Given(notice="It had none from its start.", is_complete=False)
        until = _seconds(names.get("expires", b""))
        # The session itself may have written this.
        if until is not None and self._life / 2 < until - time.time() <= self._life + 60:
            self._has_token_until(until)
            return Given(renew_at=self._token_due, notice=self._notice_of_folder())
        return await self.renew()

    async def _given_now(self, *, is_start: bool) -> Given:
        if not self.oneprovider:
            return self._without("This hub has not been told which Oneprovider to use. Tell the administrators.")
        tokens = self.session.tokens
        if tokens is None:
            return self._without("This hub’s login gives no access tokens, which the DataHub asks for.")
        try:
            found, token = await self._asked(tokens)
        except Unavailable as error:
            return self._without(str(error)) if error.is_final else self._delayed(str(error), is_start=is_start)
        except TimeoutError:
            return self._delayed("The DataHub answers too slowly.", is_start=is_start)
        if found.not_named and not found.local:
            return self._delayed("The DataHub did not name any of your spaces.", is_start=is_start)
        return self._complete(found, token, is_start=is_start)

    def _with_known_names(self, found: Found) -> Found:
        """A space that has no name now is still called what it was called: it is not taken away."""
        self._known |= {space.id: space for space in found.local}
        known = [self._known[one] for one in found.not_named if one in self._known]
        spaces = sorted([*found.local, *known], key=lambda space: (space.name.casefold(), space.id))
        return replace(found, local=spaces, not_named=[one for one in found.not_named if one not in self._known])

    async def _asked(self, tokens: TokenSource) -> tuple[Found, TemporaryToken | None]:
        """The spaces; and a token, where there are some and it is time for one. Raises `Unavailable`, `TimeoutError`.

        The login's token is used here alone, and given back.
        """
        access = None
        limits = Limits(self.request_timeout, self.timeout)
        try:
            async with asyncio.timeout(self.timeout):
                access = await tokens.obtain()
                async with Onezone(
                    self.onezone_url, self.oneprovider, access.value, ca_file=self.ca_file, limits=limits, log=self.log
                ) as onezone:
                    found = self._with_known_names(await onezone.found(self.most_spaces))
                    if not found.local or time.time() < self._token_due:
                        return found, None
                    return found, await onezone.token(self._caveats(), seconds=self._life)
        finally:
            if access is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GIVE_BACK_SECONDS):
                        await tokens.give_back(access.value)

    def _has_token_until(self, until: float) -> None:
        self._expires_at, self._token_due = until, half_of(until)

    def _caveats(self) -> Sequence[Mapping[str, Any]]:
        interface = {"type": "interface", "interface": "oneclient" if self._is_mounted else "rest"}
        return [interface, {"type": "data.readonly"}] if self.read_only else [interface]

    def _complete(self, found: Found, token: TemporaryToken | None, *, is_start: bool) -> Given:
        is_whole = found.is_online and not found.not_named
        self._failed = 0 if is_whole else self._failed + 1
        if token is not None:
            self._has_token_until(token.expires_at)
        elif not found.local:
            self._expires_at, self._token_due = None, 0.0
        due = self._token_due or time.time() + LOOK_AGAIN_SECONDS
        renew_at = due if is_whole else min(due, time.time() + self._pause())
        remarks = self._about(found) if found.local else self._about_none(found)
        where = [self._notice_of_folder()] if found.local else []
        again = [] if is_whole else [f"It is looked at again at {texts.clock(renew_at)}."]
        files = self._files(found.local, token, [*remarks, *again])
        return Given(
            environment=self._environment(),
            files=[*files, *(self._lasting_files() if is_start else ())],
            pod=self._pod(),
            renew_at=renew_at,
            notice=" ".join([*where, *remarks]),
            is_complete=is_whole,
        )

    def _about(self, found: Found) -> list[str]:
        """What there is to say beside where the spaces are; whole sentences."""
        said: list[str] = []
        if not found.is_online:
            said.append(f"The DataHub says that {self.oneprovider}, which has them, is offline at the moment.")
        if found.local_count > len(found.local) + len(found.not_named):
            said.append(
                f"You have {found.local_count} spaces there; {len(found.local)} of them are given, which is the most that this site gives."
            )
        if found.not_named:
            said.append(f"The DataHub did not name {len(found.not_named)} more.")
        if found.elsewhere:
            said.append(f"{_more(found.elsewhere)} not supported by {self.oneprovider}, and not here.")
        return said

    def _about_none(self, found: Found) -> list[str]:
        if found.elsewhere:
            return [
                f"{self.oneprovider}, the provider of this site, supports none of your DataHub spaces ({found.elsewhere}), so none is here."
            ]
        return ["You have no DataHub spaces yet. Once you have one, it comes here within half an hour."]

    def _delayed(self, why: str, *, is_start: bool) -> Given:
        """Nothing new can be had now; what the session has stays as long as it is good."""
        self._failed += 1
        again = time.time() + self._pause()
        tried = f"It is tried again at {texts.clock(again)}."
        if self._expires_at is not None and self._expires_at > time.time():
            until = f"{why} What you have goes on until {texts.clock(self._expires_at)}, as far as the DataHub allows."
            return Given(renew_at=again, notice=until, is_complete=False)
        self._expires_at, self._token_due = None, 0.0
        files = self._files((), None, [f"{why} So there are no spaces here at the moment.", tried])
        return Given(
            environment=self._environment(),
            files=[*files, *(self._lasting_files() if is_start else ())],
            pod=self._pod(),
            renew_at=again,
            notice=why,
            is_complete=False,
        )

    def _without(self, why: str) -> Given:
        """Nothing in this session, and it is not tried again."""
        text = texts.readme_without([f"There are none in this session. {why}"])
        file = SessionFile(f"{HOME}/{self._folder}", "README.md", text.encode(), is_secret=False)
        if self._has_sidecar:
            file = self._file("README.md", text.encode())
        return Given(files=[file], notice=why, is_complete=False)

    def _pause(self) -> float:
        return min(AGAIN_SECONDS * 2 ** min(self._failed - 1, 10), AGAIN_AT_MOST_SECONDS)

    # where it is

    @property
    def _is_mounted(self) -> bool:
        return self.session.platform is Platform.POD and bool(self.sidecar_image)

    @property
    def _life(self) -> float:
        return self.mount_token_life if self._is_mounted else self.token_life

    @property
    def _folder(self) -> str:
        """The name of the folder: what the repository has stays its own."""
        taken = self.session.has
        if taken is None:
            return "datahub-spaces"
        names = chain(("datahub", "datahub-spaces"), (f"datahub-spaces-{number}" for number in count(2)))
        return next(name for name in names if name not in taken)

    def _notice_of_folder(self) -> str:
        where, home = f"~/{self._folder}", self.session.home.rstrip("/")
        if self._is_mounted and not (path := pods.folder_in(home, self._folder)).startswith(f"{home or '-'}/"):
            where = path
        what = f"Your DataHub spaces are in {where}."
        if not self._is_mounted:
            what = f"{where}/README.md says how to reach your DataHub spaces."
        if self._folder == "datahub":
            return what
        if self.session.has is None:
            return f"{what} That is beside whatever the repository itself calls “datahub”."
        return f"{what} This repository has a “datahub” of its own, which is left as it is."

    def _environment(self) -> dict[str, str]:
        if self._is_mounted:
            return {}
        return {"REPLAY_ONEZONE": urlsplit(self.onezone_url).netloc, "REPLAY_ONEPROVIDER": self.oneprovider}

    def _pod(self) -> PodParts:
        if not self._is_mounted:
            return PodParts()
        return pods.pod_parts(self.sidecar, self.oneprovider, pods.folder_in(self.session.home, self._folder))

    def _files(
        self, spaces: Sequence[Space], token: TemporaryToken | None, remarks: Sequence[str]
    ) -> list[SessionFile]:
        """Those that change. Without a token, the file of the one before stays."""
        where = texts.Where(self.oneprovider, self._folder, self.read_only, self._is_mounted)
        names = how_often(spaces)
        inside = {space.id: name for space in spaces if (name := name_in_mount(space, names)) is not None}
        folders = folder_names([space for space in spaces if space.id in inside])
        told = texts.readme(where, spaces, folders, remarks) if spaces else texts.readme_without(remarks)
        until = self._expires_at
        content: dict[str, str] = {"README.md": told, "expires": "" if until is None else f"{until:.0f}\n"}
        if self._is_mounted:
            content["spaces"] = "".join(f"{one}\n" for one in folders)
            content["links"] = "".join(f"{folder}\t{inside[one]}\n" for one, folder in folders.items())
        else:
            content["spaces.json"] = texts.listing(spaces)
        files = [self._file(name, text.encode()) for name, text in content.items()]
        secret = None if token is None else token.value.encode()
        return [*files, self._file("token", secret, is_secret=True)]

    def _lasting_files(self) -> list[SessionFile]:
        """Those that a session is given once."""
        if self._is_mounted:
            where = texts.Where(self.oneprovider, self._folder, self.read_only, is_mounted=True)
            silent = texts.readme_while_silent(where)
            return [self._file("mount.sh", SCRIPT.read_bytes()), self._file("silent.md", silent.encode())]
        if not self.ca_file:
            return []
        try:
            content = Path(self.ca_file).read_bytes()
        except OSError as error:
            self.log.error("%s cannot be given to sessions: %s", self.ca_file, error)
            return []
        return [self._file("ca.pem", content, variable=CA_VARIABLE)]

    def _file(self, name: str, content: bytes | None, *, is_secret: bool = False, variable: str = "") -> SessionFile:
        if self._is_mounted:
            return SessionFile(pods.FILES, name, content, is_secret=is_secret, container=pods.CONTAINER)
        if is_secret:
            return SessionFile(self.token_folder, "datahub_token", content, variable=TOKEN_VARIABLE)
        return SessionFile(f"{HOME}/{self._folder}", name, content, is_secret=False, variable=variable)


def _more(number: int) -> str:
    return "One more space of yours is" if number == 1 else f"{number} more spaces of yours are"


def _seconds(content: bytes) -> float | None:
    try:
        return float(content)
    except ValueError:
        return None
