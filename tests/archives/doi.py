"""A stand-in for doi.org's REST API: https://www.doi.org/the-identifier/resources/factsheets/doi-resolution-documentation#5-proxy-server-rest-api.

``GET /api/handles/DOI?type=URL``: ``responseCode`` 1 with values, 200 with none of that type, and 100 with status 404 where there is no such DOI.
"""

from __future__ import annotations

from typing import Any

from tests.archives.server import Answer, ArchiveServer, Request


class DoiServer(ArchiveServer):
    """doi.org, with the DOIs of ``addresses``: by the DOI in lower case, where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[str, str] = {}

    def answer(self, request: Request) -> Answer:
        doi = request.path.removeprefix("/api/handles/").lower()
        found = self.addresses.get(doi)
        if found is None:
            return Answer.of_json({"responseCode": 100, "handle": doi}, 404)
        values: list[dict[str, Any]] = [
            {
                "index": 100,
                "type": "HS_ADMIN",
                "data": {"format": "admin", "value": {"handle": "10.admin", "index": 300}},
            },
            {"index": 1, "type": "URL", "data": {"format": "string", "value": found}, "ttl": 86400},
        ]
        wanted = [value for value in values if request.query.get("type") in {None, value["type"]} and found]
        return Answer.of_json({"responseCode": 1 if wanted else 200, "handle": doi, "values": wanted})
