"""One build as a pod: started or found again, followed, and known how it ended.

A position in its log is the offset in the file of one certain pod: its upper half names the pod, so that the log of a pod
that took another's place is read from its beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from replay_build_service.builders.base import LogChunk, LogRecord
from replay_build_service.builders.detached.failures import CANCELLED, INTERNAL, output_limit_failure
from replay_build_service.builders.detached.terminal_text import plain_text
from replay_build_service.builders.kubernetes import places, states
from replay_build_service.builders.kubernetes.client import Cluster, ClusterFault, ClusterRefusal, PodSeen
from replay_build_service.builders.kubernetes.pods import BUILDER, GRACE_SECONDS
from replay_build_service.builders.kubernetes.sources import (
    LinesLost,
    LogEnded,
    LogText,
    LogTooLong,
    Sources,
    printed_rest,
    rest_of_log,
)
from replay_build_service.builders.kubernetes.states import Ending, Stage
from replay_build_service.domain import BuildFailure, BuildJob, EventKind, FailureReason, Phase, RunnableImage

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 2
"""Pods of one build: a second one where something else than the build ended the first."""

LOOK_SECONDS = 2.0
"""Between two tries at what has to be waited for: room in a quota, a pod that goes."""

_CANCEL_SECONDS = 6.0
_LATE_SECONDS = 60.0
_OFFSET_BITS = 32
_MORE_THAN_OUTPUT = 1024**2
"""Bytes of a log that are no output: its phases, and what was read before the runner saw its limit."""

_MUCH = 300

_NO_ROOM = BuildFailure(
    FailureReason.CAPACITY,
    "This site runs as much as it may at the moment, so the build found no room. Try again later; if that does not help, tell "
    "the administrators.",
)


class PodMaker(Protocol):
    """What a build asks of its builder."""

    @property
    def cluster(self) -> Cluster: ...
    @property
    def pod_wait(self) -> float: ...
    @property
    def time_limit(self) -> float: ...
    @property
    def output_limit(self) -> int:
        """Bytes, which the runner keeps to."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds after which Kubernetes ends a pod."""
        ...

    async def make_pod(self, job: BuildJob, attempt: int) -> Mapping[str, Any] | None:
        """The pod of this build, made or found; ``None`` while another's has its name. Raises `ClusterFault`."""
        ...

    async def outcome(self, job: BuildJob, digest: str) -> RunnableImage | BuildFailure: ...


@dataclass(slots=True)
class PodBuild:
    """Implements `RunningBuild`."""

    maker: PodMaker
    job: BuildJob
    name: str
    """Of its pod."""
    pod: Mapping[str, Any] | None = None
    """As it was last seen; ``None`` where it is still to be made."""
    attempt: int = 1
    _ending: Ending | None = None
    _is_cancelled: bool = False
    _told: str = ""
    _cancelling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        """See `RunningBuild`. Raises `ClusterFault` where the cluster does not answer for long."""
        while self._ending is None:
            async for chunk in self._one_attempt(position):
                position = chunk.position
                yield chunk
            ending = self._ending or Ending(INTERNAL)
            self._ending = Ending(CANCELLED) if self._is_cancelled else ending
            if self._is_cancelled or not ending.is_worth_another or self.attempt >= MOST_ATTEMPTS:
                return
            again = "The build's pod was ended from outside. Another one starts from the beginning."
            yield LogChunk([self._record(again)], position)
            await self._delete()
            self._ending, self.pod = None, None
            self.attempt += 1

    async def outcome(self) -> RunnableImage | BuildFailure:
        """See `RunningBuild`."""
        if self._is_cancelled:
            return CANCELLED
        ending = self._ending
        if ending is None:
            return INTERNAL
        if isinstance(ending.outcome, BuildFailure):
            return ending.outcome
        return await self.maker.outcome(self.job, ending.outcome)

    async def cancel(self) -> None:
        """See `RunningBuild`."""
        async with self._cancelling:
            self._is_cancelled = True
            pod = await self.maker.cluster.pod(self.name)
            if pod is None or states.stage_of(pod) is Stage.ENDED:
                return
            if states.stage_of(pod) is Stage.RUNNING and await self._ends_by_itself():
                return
            await self.maker.cluster.delete_pod(self.name, pod["metadata"]["uid"], GRACE_SECONDS)

    async def _ends_by_itself(self) -> bool:
        """Ask the runner to end the build, which is then on record in its pod, whatever becomes of this process."""
        script = f"touch {places.FOLDER}/cancel && kill -TERM 1"
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                async for _ in self.maker.cluster.execute(self.name, BUILDER, ("sh", "-c", script)):
                    pass
                while (pod := await self.maker.cluster.pod(self.name)) is not None:
                    if states.stage_of(pod) is Stage.ENDED:
                        return True
                    await asyncio.sleep(0.2)
        except (TimeoutError, ClusterFault) as error:
            log.info("Build %s does not end by itself: %r", self.job.build_id, error)
            return False
        return True

    # one pod

    async def _one_attempt(self, position: int) -> AsyncIterator[LogChunk]:
        """From no pod to one that is over; then there is an ending."""
        began = time.monotonic()
        while (pod := await self._made()) is None:
            if self._ending is not None or self._is_cancelled:
                return
            if time.monotonic() - began > self.maker.pod_wait:
                self._ending = Ending(_NO_ROOM)
                return
            if told := self._news("This site runs as much as it may at the moment. The build waits for room."):
                yield LogChunk([told], position)
            await asyncio.sleep(LOOK_SECONDS)
        self.pod, self.attempt = pod, states.attempt_of(pod)
        generation = _generation(pod) << _OFFSET_BITS
        offset = position - generation if generation <= position < generation + 2**_OFFSET_BITS else 0
        # The build could reach the file: whoever writes there what the runner never would does not fill the database.
        text = LogText(offset, 2 * self.maker.output_limit + _MORE_THAN_OUTPUT)
        sources = Sources(self.maker.cluster, self.name)
        try:
            async for records in self._records(pod, sources, text):
                # Before its log has anything, what is told of a pod is no part of it.
                yield LogChunk(records, generation + text.offset if text.offset else position)
        except LogTooLong:
            log.warning(
                "The log of build %s is longer than its runner lets it be: the build is ended", self.job.build_id
            )
            self._ending = Ending(output_limit_failure(self.maker.output_limit))
            await self._delete()
        finally:
            await sources.close()

    async def _made(self) -> Mapping[str, Any] | None:
        """The pod; ``None`` while it cannot be made, or with an ending where it never can."""
        if self.pod is not None or self._is_cancelled:
            return self.pod
        try:
            return await self.maker.make_pod(self.job, self.attempt)
        except ClusterRefusal as refusal:
            if refusal.is_quota or refusal.status == 409:
                log.info("The pod of build %s cannot be made yet: %s", self.job.build_id, refusal.detail)
                return None
            log.error("The pod of build %s cannot be made: %s", self.job.build_id, refusal.detail)
            self._ending = Ending(
                BuildFailure(
                    FailureReason.BUILDER,
                    "Replay may not start the pod that should build. Tell the administrators: “replay-build-service doctor” "
                    "names what is missing.",
                )
            )
            return None

    async def _records(self, pod: Mapping[str, Any], sources: Sources, text: LogText) -> AsyncIterator[list[LogRecord]]:
        """What the pod tells, and its log, until it is over; then there is an ending."""
        is_gone = False
        while not is_gone and (stage := states.stage_of(pod)) is not Stage.ENDED:
            # A node that is gone for good ends nothing, and its pod stays as it was last seen.
            most = self.maker.pod_wait if stage is Stage.WAITING else self.maker.deadline + _LATE_SECONDS
            left = max(0.0, states.created_at(pod) + most - time.time())
            match await sources.next(left):
                case bytes(data):
                    for records in text.feed(data):
                        yield records
                case LogEnded():
                    text.rewind()
                    sources.read_log(text.offset)
                case PodSeen(seen, is_gone):
                    if seen is not None:
                        is_gone = is_gone or seen["metadata"]["uid"] != pod["metadata"]["uid"]
                        pod = self.pod = pod if seen["metadata"]["uid"] != pod["metadata"]["uid"] else seen
                    now = states.stage_of(pod)
                    if now is Stage.RUNNING:
                        sources.read_log(text.offset)
                    elif now is Stage.WAITING and (why := states.why_it_waits(pod)) and (told := self._news(why)):
                        yield [told]
                case None if stage is Stage.WAITING:
                    failure = states.why_it_never_ran(pod, self.maker.pod_wait, await self._complaints(pod))
                    self._ending = Ending(failure)
                    return
                case None:
                    self._ending = Ending(states.over_its_deadline(self.maker.time_limit))
                    await self._delete()
                    return
        await sources.close()
        async for records in self._rest(pod, text, is_gone=is_gone):
            yield records
        # One that is gone without a last word has none.
        self._ending = states.ending_of(
            pod if not is_gone or "deletionTimestamp" in pod["metadata"] else None, self.maker.time_limit
        )

    async def _rest(self, pod: Mapping[str, Any], text: LogText, *, is_gone: bool) -> AsyncIterator[list[LogRecord]]:
        cluster = self.maker.cluster
        try:
            if not is_gone and states.log_is_at_hand(pod):
                async for records in rest_of_log(cluster, self.name, text):
                    yield records
                return
        except ClusterFault as fault:
            log.info("The log of build %s is out of reach: %s", self.job.build_id, fault.detail)
        try:
            async for records in printed_rest(cluster, self.name, text):
                yield records
        except ClusterFault as fault:
            log.info("The log of build %s is lost: %s", self.job.build_id, fault.detail)
            if text.offset:
                yield [self._record("The rest of the log was lost with the build's pod.")]
        except LinesLost:
            yield [self._record("Some of the log's lines were lost with the build's pod.")]

    async def _complaints(self, pod: Mapping[str, Any]) -> str:
        """The last thing that Kubernetes complained of, as it may stand in a sentence."""
        try:
            warnings = await self.maker.cluster.warnings(pod["metadata"]["uid"])
        except ClusterFault as fault:
            log.info("The events of %s cannot be read: %s", self.name, fault.detail)
            return ""
        return plain_text(warnings[-1])[:_MUCH] if warnings else ""

    async def _delete(self) -> None:
        """The pod makes room for the next one of its name."""
        if self.pod is not None:
            await self.maker.cluster.delete_pod(self.name, self.pod["metadata"]["uid"], 0)

    def _news(self, sentence: str) -> LogRecord | None:
        """To be told, unless it was the last thing told."""
        if sentence == self._told:
            return None
        self._told = sentence
        return self._record(sentence)

    @staticmethod
    def _record(sentence: str) -> LogRecord:
        return LogRecord(EventKind.PHASE, Phase.WAITING, sentence, time.time())


def _generation(pod: Mapping[str, Any]) -> int:
    """A number above zero for this very pod, of less than 31 bits."""
    return int(hashlib.sha256(pod["metadata"]["uid"].encode()).hexdigest()[:7], 16) + 1
