"""All that is asked of the database, as methods with the domain's types.

Each method is one transaction. What a method returns is stored: nothing is acknowledged before its commit.
States change by compare-and-set only, so that two replicas, or two requests in one millisecond, cannot both win.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from statistics import median

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from replay_build_service.db.activity_store import ActivityQueries
from replay_build_service.db.choice_store import ChoiceQueries
from replay_build_service.db.event_store import EventQueries, append
from replay_build_service.db.launch_store import LaunchQueries, count_builds
from replay_build_service.db.manager_store import ManagerQueries
from replay_build_service.db.rows import build_of, recipe_of, recipe_text, resolved_columns
from replay_build_service.db.session_store import SessionQueries
from replay_build_service.db.tables import BuildRow, ImageRow, LaunchRow, StreamRow
from replay_build_service.domain import (
    Build,
    BuildFailure,
    BuildId,
    BuildJob,
    BuildStatus,
    EventKind,
    FailureReason,
    ImageName,
    LaunchState,
    NewEvent,
    Phase,
    RunnableImage,
    build_stream,
)
from replay_build_service.policy_values import BuildCeiling, Ceilings, Counts


class Store(LaunchQueries, ActivityQueries, ChoiceQueries, EventQueries, ManagerQueries, SessionQueries):
    """The build service's memory, on an engine that `open_database` gave."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing_engine = engine.execution_options(writes=True)

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncSession]:
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncSession]:
        async with AsyncSession(self._writing_engine, expire_on_commit=False) as session, session.begin():
            yield session

    # images

    async def find_image(self, name: ImageName) -> RunnableImage | None:
        async with self._reading() as session:
            row = await session.get(ImageRow, str(name))
            return None if row is None else RunnableImage(row.reference, row.location)

    async def forget_image(self, name: ImageName, image: RunnableImage) -> None:
        """The image turned out not to be there any more: it will be built anew when asked for."""
        async with self._writing() as session:
            await session.execute(
                delete(ImageRow).where(ImageRow.name == str(name), ImageRow.reference == image.reference)
            )

    # builds

    async def join_build(
        self, job: BuildJob, requested_by: str, ceiling: BuildCeiling | None = None
    ) -> tuple[Build, bool] | None:
        """The active build of that image, or a new one; and whether it is new. Any number of callers get one build.

        ``None`` where the image is there: a build of it may have ended since the caller looked. Raises `LimitReached` where a
        new one would be over the ceiling.
        """
        async with self._writing() as session:
            if await session.get(ImageRow, str(job.image_name)) is not None:
                return None
            active = await session.scalar(
                select(BuildRow).where(BuildRow.image_name == str(job.image_name), BuildRow.active.is_(True))
            )
            if active is not None:
                return build_of(active), False
            if ceiling is not None:
                count = await count_builds(session, requested_by, str(job.image_name))
                Ceilings(builds=ceiling.most).refuse(Counts(builds=count), ceiling.vo, job.resolved.repository)
            row = BuildRow(
                id=job.build_id,
                image_name=str(job.image_name),
                active=True,
                status=BuildStatus.QUEUED,
                recipe=recipe_text(job.recipe),
                requested_by=requested_by,
                created_at=datetime.now(UTC),
                **resolved_columns(job.resolved),
            )
            session.add(row)
            session.add(StreamRow(id=build_stream(job.build_id), last_sequence=0, position=0, finished=False))
            return build_of(row), True

    async def get_build(self, build_id: BuildId) -> Build | None:
        async with self._reading() as session:
            row = await session.get(BuildRow, build_id)
            return None if row is None else build_of(row)

    async def unfinished_builds(self) -> Sequence[Build]:
        async with self._reading() as session:
            rows = await session.scalars(
                select(BuildRow).where(BuildRow.active.is_(True)).order_by(BuildRow.created_at)
            )
            return [build_of(row) for row in rows]

    async def kept_build_ids(self) -> frozenset[BuildId]:
        """Builds whose image is kept."""
        async with self._reading() as session:
            return frozenset(BuildId(found) for found in await session.scalars(select(ImageRow.build_id)))

    async def last_images(self, job: BuildJob) -> Sequence[RunnableImage]:
        """The images that the same builder made last of that job's repository, newest first: at most ten."""
        async with self._reading() as session:
            rows = await session.execute(
                select(ImageRow, BuildRow.recipe)
                .join(BuildRow, BuildRow.id == ImageRow.build_id)
                .where(BuildRow.repository == job.resolved.repository.url, ImageRow.name != str(job.image_name))
                .order_by(ImageRow.created_at.desc())
                .limit(20)
            )
            found = (image for image, recipe in rows if recipe_of(recipe).builder == job.recipe.builder)
            return [RunnableImage(image.reference, image.location) for image in islice(found, 10)]

    async def lease_build(self, build_id: BuildId, owner: str, duration: timedelta) -> bool:
        """Take or renew the right to drive a build; false where another holds it or the build is final."""
        now = datetime.now(UTC)
        async with self._writing() as session:
            result = await session.execute(
                update(BuildRow)
                .where(
                    BuildRow.id == build_id,
                    BuildRow.active.is_(True),
                    or_(BuildRow.lease_owner.is_(None), BuildRow.lease_owner == owner, BuildRow.lease_until < now),
                )
                .values(lease_owner=owner, lease_until=now + duration)
                .returning(BuildRow.id)
            )
            return result.first() is not None

    async def mark_running(self, build_id: BuildId) -> None:
        async with self._writing() as session:
            await session.execute(
                update(BuildRow)
                .where(BuildRow.id == build_id, BuildRow.status == BuildStatus.QUEUED)
                .values(status=BuildStatus.RUNNING, started_at=datetime.now(UTC))
            )

    async def finish_build(self, build_id: BuildId, outcome: RunnableImage | BuildFailure, text: str) -> bool:
        """Make a build final, with its image and the last event of its stream, at once; false where it was final before."""
        now = datetime.now(UTC)
        match outcome:
            case RunnableImage(reference, location):
                phase, status = Phase.BUILT, BuildStatus.SUCCEEDED
                values = {"image_reference": reference, "image_location": location}
            case BuildFailure(reason, message):
                phase = Phase.FAILED
                status = BuildStatus.CANCELLED if reason is FailureReason.CANCELLED else BuildStatus.FAILED
                values = {"failure_reason": reason, "failure_message": message}
        async with self._writing() as session:
            row = (
                await session.execute(
                    update(BuildRow)
                    .where(BuildRow.id == build_id, BuildRow.active.is_(True))
                    .values(active=None, status=status, ended_at=now, **values)
                    .returning(BuildRow.image_name)
                )
            ).first()
            if row is None:
                return False
            if isinstance(outcome, RunnableImage):
                await session.execute(delete(ImageRow).where(ImageRow.name == row.image_name))
                session.add(
                    ImageRow(
                        name=row.image_name,
                        reference=outcome.reference,
                        location=outcome.location,
                        build_id=build_id,
                        created_at=now,
                    )
                )
            await append(session, build_stream(build_id), [NewEvent(EventKind.PHASE, phase, text, now)], finished=True)
            return True

    async def usual_build_seconds(self) -> float | None:
        """The median of the last 20 builds that made an image; ``None`` where there was none."""
        async with self._reading() as session:
            rows = await session.execute(
                select(BuildRow.created_at, BuildRow.ended_at)
                .where(BuildRow.status == BuildStatus.SUCCEEDED, BuildRow.ended_at.is_not(None))
                .order_by(BuildRow.ended_at.desc())
                .limit(20)
            )
            seconds = [(ended - created).total_seconds() for created, ended in rows if ended is not None]
            return median(seconds) if seconds else None

    async def launches_waiting_for(self, build_id: BuildId) -> int:
        """How many launches wait for this build, those among them that have not joined it yet: all of its image."""
        async with self._reading() as session:
            image_name = select(BuildRow.image_name).where(BuildRow.id == build_id).scalar_subquery()
            count = select(func.count()).where(
                LaunchRow.image_name == image_name, LaunchRow.state == LaunchState.BUILDING
            )
            return await session.scalar(count) or 0

    async def ping(self) -> None:
        """Raises where the database does not answer."""
        async with self._engine.connect() as connection:
            await _select_one(connection)


async def _select_one(connection: AsyncConnection) -> None:
    await connection.execute(select(1))
