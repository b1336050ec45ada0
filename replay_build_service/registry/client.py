"""The questions that Replay asks a registry, each retried within a limit of time. See `Registry`."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import stamina

from replay_build_service.domain import ImageConfiguration, InlineCache
from replay_build_service.registry.authentication import Authority
from replay_build_service.registry.documents import (
    ACCEPTED,
    CONFIGURATION_LIMIT,
    INDEX_TYPES,
    MANIFEST_LIMIT,
    MANIFEST_TYPES,
    Index,
    Manifest,
    of_index,
    parse_configuration,
    parse_manifest,
    says_not_found,
    says_unsupported,
)
from replay_build_service.registry.exchange import Answer, open_client, send, unexpected, without_faults
from replay_build_service.registry.faults import PassingFault, RegistryFault, misunderstood, too_slow
from replay_build_service.registry.inline_cache import parse_inline_cache
from replay_build_service.registry.names import blob_path, digest_of, is_digest, manifest_path, uploads_path
from replay_build_service.registry.pushes import check_stored, upload_path
from replay_build_service.registry.settings import RegistrySettings

logger = logging.getLogger(__name__)

ATTEMPTS = 3
FIRST_WAIT = 0.2
"""Seconds before the second attempt; the third waits twice as long."""
LONGEST_WAIT = 5.0
"""Seconds that a server may ask to be left alone (``Retry-After``) and still be asked again for the same question."""
BLOBS_AT_ONCE = 6
BLOBS_SHARE = 3
"""How many times the settings' timeout all the blobs of an image may take together."""

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

_Understood = TypeVar("_Understood")


@dataclass(frozen=True, slots=True)
class _Question:
    method: str
    path: str
    scope: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    limit: int | None = None
    follow: bool = False
    content: bytes | None = None


class Registry:
    """One registry, asked over one pool of connections. Use as an asynchronous context manager.

    A repository or reference that is none raises `ValueError`, in every method, before anything is sent. What the
    registry does wrong raises `RegistryFault`: no answer in time, 401, 403, 429, 5xx, and what cannot be understood. It
    never reads as “not there”: only a registry's own 404 does.

    ``architecture`` is the one of the machines that images run on, in OCI's words; by default this machine's.
    ``clock`` counts seconds, for the lives of tokens.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        architecture: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        machine = platform.machine().lower()
        self._settings = settings
        self._platform = f"linux/{architecture or _ARCHITECTURES.get(machine, machine)}"
        self._client = open_client(settings)
        self._authority = Authority(settings, self._client, clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Whether there is a registry that knows our account (end-1). Raises `RegistryFault` where not."""
        await self._asked(_Question("GET", "/v2/", "", limit=MANIFEST_LIMIT), _is_registry)

    async def exists(self, repository: str, reference: str) -> bool:
        """Whether a tag or digest is there, as an image or an index; not whether all of it is (`missing_blobs`).

        One request, where the registry's way to authenticate is known and there is a token.
        """
        path = manifest_path(repository, reference)
        question = _Question("HEAD", path, _pull(repository), {"Accept": ACCEPTED})
        found = await self._asked(question, lambda answer: _says_exists(answer, reference))
        return found if found is not None else await self._document(repository, reference) is not None

    async def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The image of a tag or digest; ``None`` where there is none.

        Of an index, the image for Linux on this machine's architecture. Its ``digest`` is then its own and
        ``index_digest`` the index's; ``None`` too where the index names it and the registry has it no longer. Raises
        `RegistryFault` where the index has none for us.
        """
        document = await self._document(repository, reference)
        if not isinstance(document, Index):
            return document
        entry = document.entry_for(self._platform)
        image = await self._document(repository, entry.digest, size=entry.size)
        if isinstance(image, Index):
            raise RegistryFault("The image registry has an index of indexes here, which Replay does not read.")
        return None if image is None else of_index(image, document)

    async def configuration(self, repository: str, manifest: Manifest) -> ImageConfiguration:
        """How the image wants to be run. A configuration that the registry has lost is a fault: the image is broken."""
        return parse_configuration(await self._configuration_text(repository, manifest))

    async def inline_cache(self, repository: str, manifest: Manifest) -> InlineCache:
        """What builds can take over from the image. Raises as `configuration` does."""
        return parse_inline_cache(await self._configuration_text(repository, manifest))

    async def _configuration_text(self, repository: str, manifest: Manifest) -> bytes:
        if manifest.config_size > CONFIGURATION_LIMIT:
            raise RegistryFault("The image's configuration is far too large to be one.", "configuration too long")
        path = blob_path(repository, manifest.config_digest)
        question = _Question("GET", path, _pull(repository), limit=CONFIGURATION_LIMIT, follow=True)
        return await self._asked(question, lambda answer: _content(answer, manifest.config_digest))

    async def missing_blobs(self, repository: str, manifest: Manifest) -> tuple[str, ...]:
        """What of an image the registry has lost: digests of its configuration and layers, in the manifest's order.

        A blob of another size than the manifest says counts as lost. Blobs are asked for by HEAD, a few at a time, and
        all of them within three times the settings' timeout.
        """
        sizes = {manifest.config_digest: manifest.config_size}
        sizes |= {layer.digest: layer.size for layer in manifest.layers}
        paths = {digest: blob_path(repository, digest) for digest in sizes}
        limit = asyncio.Semaphore(BLOBS_AT_ONCE)

        async def is_missing(digest: str) -> bool:
            async with limit:
                return await self._is_missing(paths[digest], _pull(repository), sizes[digest])

        async with _within(self._settings.timeout * BLOBS_SHARE):
            try:
                async with asyncio.TaskGroup() as tasks:
                    asked = {digest: tasks.create_task(is_missing(digest)) for digest in sizes}
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        return tuple(digest for digest, task in asked.items() if task.result())

    async def delete(self, repository: str, digest: str) -> bool:
        """Delete a manifest, and with it every tag of it; the blobs stay until the registry's own garbage collection.

        False where it was not there (or no longer, where an attempt went through that got no answer). A registry that
        deletes nothing raises `RegistryFault`.
        """
        if not is_digest(digest):
            raise ValueError(f"{digest[:150]!r} is no sha256 digest.")
        scope = f"repository:{repository}:pull,delete"
        question = _Question("DELETE", manifest_path(repository, digest), scope, limit=MANIFEST_LIMIT)
        return await self._asked(question, _is_deleted)

    async def push_blob(self, repository: str, content: bytes) -> str:
        """Upload a blob that fits in memory (end-4a, end-6); returns its digest."""
        digest, scope = digest_of(content), _push(repository)
        begin = _Question("POST", uploads_path(repository), scope, limit=MANIFEST_LIMIT)
        path = await self._asked(begin, lambda answer: upload_path(answer, self._settings.base_url, digest))
        headers = {"Content-Type": "application/octet-stream"}
        await self._asked(_Question("PUT", path, scope, headers, MANIFEST_LIMIT, content=content), check_stored)
        return digest

    async def push_manifest(self, repository: str, tag: str, document: bytes, media_type: str) -> str:
        """Put a manifest there, all of whose blobs are (end-7); returns its digest."""
        path, headers = manifest_path(repository, tag), {"Content-Type": media_type}
        question = _Question("PUT", path, _push(repository), headers, MANIFEST_LIMIT, content=document)
        await self._asked(question, check_stored)
        return digest_of(document)

    # ---- parts of questions

    async def _document(self, repository: str, reference: str, *, size: int | None = None) -> Manifest | Index | None:
        path = manifest_path(repository, reference)
        question = _Question("GET", path, _pull(repository), {"Accept": ACCEPTED}, limit=MANIFEST_LIMIT)
        return await self._asked(question, lambda answer: _document(answer, reference, size))

    async def _is_missing(self, path: str, scope: str, size: int) -> bool:
        question = _Question("HEAD", path, scope, follow=True)
        missing = await self._asked(question, lambda answer: _is_lost(answer, size))
        if missing is not None:
            return missing
        # The registry's own words come with the body, and HEAD brings none.
        question = _Question("GET", path, scope, follow=True)
        return bool(await self._asked(question, lambda answer: _is_lost(answer, size, is_last_word=True)))

    # ---- one question, with retries

    async def _asked(self, question: _Question, understood: Callable[[Answer], _Understood]) -> _Understood:
        """What the answer means. An answer that cannot be understood is asked for again, like one that did not come."""
        deadline = asyncio.get_running_loop().time() + self._settings.timeout
        try:
            async with _within(self._settings.timeout):
                async for attempt in stamina.retry_context(
                    on=_worth_another(deadline),
                    attempts=ATTEMPTS,
                    timeout=None,
                    wait_initial=FIRST_WAIT,
                    wait_max=2.0,
                    wait_jitter=FIRST_WAIT,
                ):
                    with attempt:
                        async with _within(self._settings.timeout / 2):
                            return understood(await self._asked_once(question))
        except RegistryFault as error:
            logger.warning(
                "%s %s of the registry %s: %s (%s)",
                question.method,
                question.path.partition("?")[0],
                self._settings.host,
                error,
                error.detail,
            )
            raise
        raise AssertionError("stamina ends with a result or an error")

    async def _asked_once(self, question: _Question) -> Answer:
        used = await self._authority.authorization(question.scope)
        answer = await self._sent(question, used.header if used else None)
        if answer.status == 401 and not answer.redirected:
            used = await self._authority.renewed(answer, question.scope, used)
            answer = await self._sent(question, used.header)
            if answer.status == 401 and not answer.redirected:
                raise self._authority.refusal(answer, question.scope, used)
        return without_faults(answer)

    async def _sent(self, question: _Question, authorization: str | None) -> Answer:
        headers = dict(question.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        request = self._client.build_request(
            question.method, f"{self._settings.base_url}{question.path}", headers=headers, content=question.content
        )
        return await send(self._client, request, limit=question.limit, follow=question.follow)


@asynccontextmanager
async def _within(seconds: float) -> AsyncGenerator[None]:
    """A slow answer is a fault like any other, however it is slow: silent, or a byte at a time."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise too_slow() from None


def _worth_another(deadline: float) -> Callable[[Exception], bool | float]:
    """Whether to ask again, and after how many seconds, where the server said."""

    def decide(error: Exception) -> bool | float:
        if not isinstance(error, PassingFault) or error.after is None:
            return isinstance(error, PassingFault)
        in_time = asyncio.get_running_loop().time() + error.after < deadline
        return error.after if error.after <= LONGEST_WAIT and in_time else False

    return decide


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"


# ---- what an answer means


def _is_registrys_own(answer: Answer) -> bool:
    """Whether a 404 is the registry's, and not of a proxy before it that finds no registry.

    The header is Docker's, and nearly every registry has it; a word of its own in the body does too.
    """
    version = answer.headers.get("Docker-Distribution-Api-Version", "")
    return version.startswith("registry/2.") or says_not_found(answer.body)


def _is_registry(answer: Answer) -> None:
    if answer.status not in {200, 404}:
        raise unexpected(answer)
    if answer.status == 404 or answer.media_type == "text/html":
        raise PassingFault(
            "There is no image registry at the address that Replay knows. "
            "An administrator of this hub has to look at the registry's URL.",
            f"status {answer.status}",
        )


def _says_exists(answer: Answer, reference: str) -> bool | None:
    """``None`` where a 404 could be another's than the registry's."""
    if answer.status == 404:
        return False if _is_registrys_own(answer) else None
    if answer.status != 200:
        raise unexpected(answer)
    if answer.media_type not in MANIFEST_TYPES | INDEX_TYPES:
        raise misunderstood("neither a manifest nor an index")
    _named_digest(answer, reference)
    return True


def _document(answer: Answer, reference: str, size: int | None) -> Manifest | Index | None:
    if answer.status == 404 and _is_registrys_own(answer):
        return None
    if answer.status != 200:
        raise unexpected(answer)
    digest = digest_of(answer.body)
    if _named_digest(answer, reference) not in {None, digest} or (is_digest(reference) and reference != digest):
        raise misunderstood("a manifest of another digest")
    if size not in {None, len(answer.body)}:
        raise misunderstood("a manifest of another size")
    return parse_manifest(answer.body, answer.media_type, digest)


def _named_digest(answer: Answer, reference: str) -> str | None:
    """What the registry says that the digest is; it need not say. Raises `PassingFault` where it is not the one asked for."""
    named = answer.headers.get("Docker-Content-Digest")
    if named is not None and (not is_digest(named) or (is_digest(reference) and named != reference)):
        raise misunderstood("a manifest of another digest")
    return named


def _content(answer: Answer, digest: str) -> bytes:
    if answer.status == 404 and (answer.redirected or _is_registrys_own(answer)):
        raise RegistryFault(
            "The image registry has lost a part of this image. Build it anew.", f"{digest} is not there"
        )
    if answer.status != 200:
        raise unexpected(answer)
    if digest_of(answer.body) != digest:
        raise misunderstood("a blob of another digest")
    return answer.body


def _is_lost(answer: Answer, size: int, *, is_last_word: bool = False) -> bool | None:
    """Whether a blob is not there whole; ``None`` where a 404 could be another's than the registry's."""
    if answer.status == 404:
        # The storage that a registry sends us to knows what it has.
        if answer.redirected or _is_registrys_own(answer):
            return True
        if is_last_word:
            raise unexpected(answer)
        return None
    if answer.status != 200:
        raise unexpected(answer)
    length = answer.headers.get("Content-Length")
    # Without a length it is there, and that is all that is known.
    return length is not None and length != str(size)


def _is_deleted(answer: Answer) -> bool:
    if answer.status == 404 and _is_registrys_own(answer):
        return False
    if answer.status == 405 or (400 <= answer.status < 500 and says_unsupported(answer.body)):
        raise RegistryFault(
            "The image registry does not allow anything to be deleted. "
            "An administrator of this hub can have that changed in the registry's settings.",
            f"status {answer.status}",
        )
    if answer.status not in {200, 202, 204}:
        raise unexpected(answer)
    return True
