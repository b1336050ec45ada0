"""What the spawner asks of the service: over the internal URL, with the service's own token from a file."""

import asyncio
from pathlib import Path

import httpx
from pydantic import BaseModel

from replay_build_service.schemas import ActivityAnswer, ActivityReport, EndedReport, LaunchPlan, PlanRequest, Refusal

PLAN_SECONDS = 10.0
PING_SECONDS = 3.0


class PlanRefused(Exception):
    """The service answered that there is no such plan. ``kind`` is ``not_found``, ``used`` or ``refused``."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class ServiceUnavailable(Exception):
    """The service did not answer, or not as the service does."""


class ReplayClient:
    """A connection pool to one service, for as long as the hub's process runs."""

    def __init__(self, url: str, token_file: Path) -> None:
        self._token_file = token_file
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            timeout=PLAN_SECONDS,
            limits=httpx.Limits(keepalive_expiry=300),
            trust_env=False,
        )

    async def is_up(self) -> bool:
        """Whether the service answers now."""
        try:
            response = await self._client.get("health", timeout=PING_SECONDS)
        except httpx.TransportError:
            return False
        return response.status_code == 200

    async def plan(self, request: PlanRequest) -> LaunchPlan:
        """Use a launch up and get its plan. Raises `PlanRefused` and `ServiceUnavailable`."""
        response = await self._post("internal/plan", request)
        try:
            if response.status_code == 200:
                return LaunchPlan.model_validate_json(response.content)
            refusal = Refusal.model_validate_json(response.content)
        except ValueError as error:
            raise ServiceUnavailable(
                f"Replay's build service answered {response.status_code} with something unknown"
            ) from error
        match response.status_code:
            case 404:
                raise PlanRefused(refusal.message, "not_found")
            case 409:
                raise PlanRefused(refusal.message, "used")
            case 400 | 403 | 422 | 429:
                raise PlanRefused(refusal.message, "refused")
            case _:
                raise ServiceUnavailable(refusal.message)

    async def ended(self, report: EndedReport) -> None:
        """Tell why a session ended by itself. Raises `ServiceUnavailable` where that is to be told again."""
        response = await self._post("internal/ended", report)
        # One that the service does not know, or does not understand, will not be known the next time.
        if response.status_code not in {204, 400, 404}:
            raise ServiceUnavailable(
                f"Replay's build service answered {response.status_code} to the end of {report.launch}"
            )

    async def activity(self, report: ActivityReport) -> ActivityAnswer:
        """Tell when a session was last used, and learn whether its person keeps it. Raises `ServiceUnavailable`."""
        response = await self._post("internal/activity", report)
        try:
            if response.status_code == 200:
                return ActivityAnswer.model_validate_json(response.content)
        except ValueError as error:
            raise ServiceUnavailable("Replay's build service answered with something unknown") from error
        raise ServiceUnavailable(f"Replay's build service answered {response.status_code}")

    async def _post(self, path: str, model: BaseModel) -> httpx.Response:
        """An answer to what the spawner says, with the service's own token. Raises `ServiceUnavailable`."""
        try:
            # Read each time, since a service that starts anew may have made another; not on the hub's loop.
            token = (await asyncio.to_thread(self._token_file.read_text)).strip()
            return await self._client.post(
                path,
                content=model.model_dump_json(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            )
        except OSError as error:
            raise ServiceUnavailable(
                f"The service's token cannot be read from {self._token_file}: {error.strerror}"
            ) from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(f"Replay's build service does not answer: {error!r}") from error
