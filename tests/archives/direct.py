"""The stand-ins without a network: what asks them is handed their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

from pydantic import BaseModel, ValidationError

from replay_build_service.errors import RepositoryNotFound, SourceFault
from replay_build_service.outgoing import Origin
from tests.archives.server import ArchiveServer, Request


class Direct:
    """An `Asker` that goes to the stand-in itself, and changes what it says: to another value, or to bytes."""

    def __init__(self, archive: ArchiveServer, change: Callable[[Any], Any]) -> None:
        self._archive = archive
        self._change = change
        self._asked = 0

    def may_ask(self, url: str) -> bool:
        return url.startswith(self._archive.url)

    def is_portal(self, url: str) -> bool:
        return self.may_ask(url)

    async def json(
        self, url: str, model: type[BaseModel], *, missing: str, body: Mapping[str, Any] | None = None
    ) -> BaseModel:
        self._asked += 1
        assert self._asked < 500, "it asks without an end"
        Origin.of_url(url)
        for _ in range(5):
            parts = urlsplit(url)
            given_body = b"" if body is None else json.dumps(body).encode()
            query = dict(parse_qsl(parts.query))
            answer = self._archive.answer(
                Request("GET" if body is None else "POST", unquote(parts.path), query, given_body, {})
            )
            if "Location" not in answer.headers:
                break
            url = urljoin(url, answer.headers["Location"])
        if answer.status >= 400:
            raise RepositoryNotFound(missing)
        try:
            value = self._change(json.loads(answer.body))
            return model.model_validate_json(value if isinstance(value, bytes) else json.dumps(value))
        except ValidationError as error:
            raise SourceFault("It was not understood.") from error
