"""From rows to the domain's values and back: the only place that knows both."""

import json
from datetime import timedelta

from replay_build_service.db.tables import BuildRow, EventRow, LaunchRow, ResolvedColumns
from replay_build_service.domain import (
    Build,
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    BuildStatus,
    Event,
    EventKind,
    FailureReason,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    Phase,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.links import Repository, RepoSpec


def resolved_of(row: ResolvedColumns) -> ResolvedRef:
    spec = RepoSpec(row.provider, row.locator, row.ref)
    return ResolvedRef(Repository(row.repository), spec, row.fetch_url, row.version)


def resolved_columns(resolved: ResolvedRef) -> dict[str, str]:
    return {
        "provider": resolved.spec.provider,
        "locator": resolved.spec.locator,
        "ref": resolved.spec.ref,
        "repository": resolved.repository.url,
        "fetch_url": resolved.fetch_url,
        "version": resolved.version,
    }


def content_of(text: str | None) -> ResolvedRef | None:
    if text is None:
        return None
    stored = json.loads(text)
    spec = RepoSpec(stored["provider"], stored["locator"], stored["ref"])
    return ResolvedRef(Repository(stored["repository"]), spec, stored["fetch_url"], stored["version"])


def content_text(content: ResolvedRef | None) -> str | None:
    return None if content is None else json.dumps(resolved_columns(content), sort_keys=True)


def image_of(reference: str | None, location: str | None) -> RunnableImage | None:
    return None if reference is None or location is None else RunnableImage(reference, location)


def recipe_text(recipe: BuildRecipe) -> str:
    return json.dumps({"builder": recipe.builder, "parameters": recipe.parameters})


def recipe_of(text: str) -> BuildRecipe:
    stored = json.loads(text)
    return BuildRecipe(stored["builder"], tuple((key, value) for key, value in stored["parameters"]))


def build_of(row: BuildRow) -> Build:
    failure = None
    if row.failure_reason is not None:
        failure = BuildFailure(FailureReason(row.failure_reason), row.failure_message or "")
    return Build(
        job=BuildJob(BuildId(row.id), ImageName.from_text(row.image_name), resolved_of(row), recipe_of(row.recipe)),
        status=BuildStatus(row.status),
        requested_by=row.requested_by,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        image=image_of(row.image_reference, row.image_location),
        failure=failure,
    )


def launch_of(row: LaunchRow) -> Launch:
    return Launch(
        id=LaunchId(row.id),
        user=row.user,
        server_name=row.server_name,
        resolved=resolved_of(row),
        image_name=ImageName.from_text(row.image_name),
        vo=row.vo,
        urlpath=row.urlpath,
        state=LaunchState(row.state),
        created_at=row.created_at,
        build_id=None if row.build_id is None else BuildId(row.build_id),
        image=image_of(row.image_reference, row.image_location),
        consumed_at=row.consumed_at,
        failure=row.failure,
        features=tuple(json.loads(row.features)) if row.features else (),
        content=content_of(row.content),
        maximum_age=None if row.maximum_age is None else timedelta(seconds=row.maximum_age),
        running_at=row.running_at,
        ended_at=row.ended_at,
    )


def launch_row(launch: Launch) -> LaunchRow:
    return LaunchRow(
        id=launch.id,
        user=launch.user,
        server_name=launch.server_name,
        image_name=str(launch.image_name),
        image_reference=launch.image.reference if launch.image else None,
        image_location=launch.image.location if launch.image else None,
        build_id=launch.build_id,
        vo=launch.vo,
        urlpath=launch.urlpath,
        state=launch.state,
        created_at=launch.created_at,
        starting_at=launch.created_at if launch.state is LaunchState.STARTING else None,
        consumed_at=launch.consumed_at,
        failure=launch.failure,
        features=json.dumps(launch.features) if launch.features else None,
        content=content_text(launch.content),
        maximum_age=None if launch.maximum_age is None else launch.maximum_age.total_seconds(),
        running_at=launch.running_at,
        ended_at=launch.ended_at,
        **resolved_columns(launch.resolved),
    )


def event_of(row: EventRow) -> Event:
    return Event(row.sequence, EventKind(row.kind), Phase(row.phase), row.text, row.at)
