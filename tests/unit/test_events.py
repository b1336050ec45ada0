"""Following a stream: one reader and one encoding for all, and for each watcher every event once, in order."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_build_service import events as events_module
from replay_build_service.db import Store
from replay_build_service.domain import Event, EventKind, NewEvent, Phase
from replay_build_service.events import EventFeed
from tests.unit.core_fakes import FailingStore, a_job_of, a_store

STREAM = "build:one"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "POLL_SECONDS", 0.01)


class _Leave(Exception):
    """The test is over."""


class Watched:
    """A feed over a store with one stream, which counts what it is made to do."""

    def __init__(self, store: Store, tasks: asyncio.TaskGroup) -> None:
        self.store = FailingStore(store)
        self.encoded: Counter[int] = Counter()
        self.feed = EventFeed(self.store, self._encode, tasks)  # pyright: ignore[reportArgumentType]
        self.written = 0

    def _encode(self, stream: str, event: Event) -> bytes:
        self.encoded[event.sequence] += 1
        return f"{event.sequence}:{event.text}".encode()

    async def write(self, count: int, *, finished: bool = False) -> None:
        new = [
            NewEvent(EventKind.LINE, Phase.BUILDING, f"line {self.written + n + 1}", datetime.now(UTC))
            for n in range(count)
        ]
        self.written += count
        await self.store._store.append_events(STREAM, new, finished=finished)
        self.feed.notify(STREAM)

    async def watch(self, after: int = 0, until: int | None = None) -> list[int]:
        """The sequence numbers that a watcher gets, to the end of the stream or to a number."""
        got: list[int] = []
        async with aclosing(self.feed.follow(STREAM, after)) as frames:
            async for batch in frames:
                for frame in batch:
                    number, _, text = frame.partition(b":")
                    assert text == f"line {int(number)}".encode()
                    got.append(int(number))
                if until is not None and got and got[-1] >= until:
                    break
        return got


@asynccontextmanager
async def a_stream(folder: Path) -> AsyncIterator[Watched]:
    async with a_store(folder) as store:
        await store.join_build(a_job_of("one"), "ada")
        try:
            async with asyncio.TaskGroup() as tasks:
                yield Watched(store, tasks)
                raise _Leave
        except* _Leave:
            pass


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with a_stream(tmp_path) as made:
        yield made


async def test_two_hundred_watchers_share_one_reader_and_one_encoding(watched: Watched) -> None:
    watchers = [asyncio.create_task(watched.watch()) for _ in range(200)]
    for _ in range(10):
        await watched.write(5)
    await watched.write(0, finished=True)
    seen = await asyncio.gather(*watchers)
    assert {tuple(numbers) for numbers in seen} == {tuple(range(1, 51))}
    assert set(watched.encoded.values()) == {1}
    # A reader looks when it is told to, and now and then by itself: never once for each watcher.
    assert watched.store.calls.count("read_events") < 100


async def test_one_who_comes_late_and_one_who_comes_back_miss_nothing(watched: Watched) -> None:
    first = asyncio.create_task(watched.watch())
    await watched.write(20)
    assert await watched.watch(until=20) == list(range(1, 21))
    late, back = asyncio.create_task(watched.watch()), asyncio.create_task(watched.watch(7))
    await watched.write(10, finished=True)
    assert (await first, await late) == (list(range(1, 31)),) * 2
    assert await back == list(range(8, 31))


async def test_one_who_comes_back_first_does_not_hide_the_start_from_others(watched: Watched) -> None:
    await watched.write(20)
    back = asyncio.create_task(watched.watch(15))
    assert await watched.watch(until=20) == list(range(1, 21))
    await watched.write(1, finished=True)
    assert await back == list(range(16, 22))


async def test_a_watcher_far_behind_the_window_still_gets_everything(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "WINDOW", 10)
    monkeypatch.setattr(events_module, "PAGE", 4)
    follow = watched.feed.follow(STREAM)
    quick = asyncio.create_task(watched.watch())
    await watched.write(3)
    got = [frame async for frame in _first(follow)]
    await watched.write(100, finished=True)
    assert await quick == list(range(1, 104))
    async for batch in follow:
        got += batch
    assert [int(frame.partition(b":")[0]) for frame in got] == list(range(1, 104))


async def _first(follow: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    async for batch in follow:
        for frame in batch:
            yield frame
        return


@pytest.mark.parametrize("position", [3, 999_999_999_999])
async def test_a_position_that_the_stream_never_had_means_its_start_and_stops_nobody_else(
    watched: Watched, position: int
) -> None:
    await watched.write(2)
    odd = asyncio.create_task(watched.watch(position))
    other = asyncio.create_task(watched.watch())
    await asyncio.sleep(0)
    await watched.write(3, finished=True)
    assert await other == [1, 2, 3, 4, 5]
    assert await odd == [1, 2, 3, 4, 5]


async def test_the_reader_ends_when_nobody_watches(watched: Watched) -> None:
    watchers = [asyncio.create_task(watched.watch()) for _ in range(3)]
    await watched.write(1)
    await watched.watch(until=1)
    assert set(watched.feed._readers) == {STREAM}
    for task in watchers[:2]:
        task.cancel()
    await asyncio.gather(*watchers[:2], return_exceptions=True)
    await watched.write(1)
    assert await watched.watch(until=2) == [1, 2], "who stays is served"
    (reader,) = [task for task in asyncio.all_tasks() if task.get_name() == f"reader of {STREAM}"]
    watchers[2].cancel()
    await reader
    assert watched.feed._readers == {}
    calls = len(watched.store.calls)
    await watched.write(1)
    assert len(watched.store.calls) == calls


async def test_a_quiet_stream_says_now_and_then_that_it_is_there(watched: Watched) -> None:
    async with aclosing(watched.feed.follow(STREAM, idle_seconds=0.01)) as frames:
        assert await anext(frames) == []
        assert await anext(frames) == []
        await watched.write(1)
        got = await anext(frames)
        while not got:
            got = await anext(frames)
        assert got == [b"1:line 1"]


async def test_a_store_that_fails_for_a_while_costs_nobody_an_event(watched: Watched) -> None:
    await watched.write(4)
    early = asyncio.create_task(watched.watch(2))
    await watched.watch(until=4)
    watched.store.is_down = True
    await watched.write(4)
    late = asyncio.create_task(watched.watch())
    back = asyncio.create_task(watched.watch(1))
    while watched.store.faults < 6:
        watched.store.failed.clear()
        await watched.store.failed.wait()
    watched.store.is_down = False
    await watched.write(2, finished=True)
    assert await early == list(range(3, 11))
    assert await late == list(range(1, 11))
    assert await back == list(range(2, 11))


async def test_a_stream_that_is_over_or_never_was_ends_at_once(watched: Watched) -> None:
    await watched.write(3, finished=True)
    assert await watched.watch() == [1, 2, 3]
    assert await watched.watch(3) == []
    assert [frame async for frame in watched.feed.follow("build:never")] == []


async def test_the_end_of_the_process_ends_every_stream(watched: Watched) -> None:
    watchers = [asyncio.create_task(watched.watch()) for _ in range(5)]
    await watched.write(3)
    await watched.watch(until=3)
    await watched.feed.end()
    assert await asyncio.gather(*watchers) == [[1, 2, 3]] * 5
    assert await watched.watch() == []


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    positions=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    window=st.integers(1, 30),
    page=st.integers(1, 20),
)
def test_no_gap_and_no_repeat_whatever_is_written_and_whoever_comes_back(
    sizes: list[int], positions: list[int], window: int, page: int
) -> None:
    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with a_stream(Path(folder)) as watched:
                watchers: list[tuple[int, asyncio.Task[list[int]]]] = []
                for at, size in enumerate(sizes):
                    await watched.write(size)
                    for position in positions[at :: len(sizes)]:
                        known = min(position, watched.written)
                        watchers.append((known, asyncio.create_task(watched.watch(known))))
                watchers += [(0, asyncio.create_task(watched.watch())) for _ in positions]
                await watched.write(1, finished=True)
                for position, task in watchers:
                    assert await task == list(range(position + 1, watched.written + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "WINDOW", window)
        patch.setattr(events_module, "PAGE", page)
        asyncio.run(run())


async def test_a_reader_keeps_no_more_bytes_than_it_may_and_nobody_misses_any(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "WINDOW_BYTES", 100)
    first = asyncio.create_task(watched.watch())
    await watched.write(40)
    assert await watched.watch(until=40) == list(range(1, 41))
    reader = watched.feed._readers[STREAM]
    assert reader.size == sum(map(len, reader.frames)) <= 100
    assert reader.last == 40
    late = asyncio.create_task(watched.watch())
    await watched.write(40, finished=True)
    assert (await first, await late) == (list(range(1, 81)),) * 2


async def test_a_line_that_is_longer_than_all_that_is_kept_is_told(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "WINDOW_BYTES", 3)
    first = asyncio.create_task(watched.watch())
    await watched.write(10, finished=True)
    assert await first == list(range(1, 11))
