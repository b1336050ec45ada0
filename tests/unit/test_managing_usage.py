"""Usage: sums over months and people from what the database holds, and the shapes in which it leaves."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.db import Store, session_store
from replay_build_service.domain import BuildRecipe, ImageName, Launch, LaunchId, LaunchState
from replay_build_service.errors import BadLink
from replay_build_service.managing.accounting import CLOUD_HEAD, cloud_record, gpu_message, gpu_records
from replay_build_service.managing.admission import Manager
from replay_build_service.managing.usage import GB, Month, Tally, Usages, as_csv
from replay_build_service.records import UsedSession
from tests.unit.core_fakes import image, ref

pytestmark = pytest.mark.hub_independent

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def used(start: str, end: str | None, user: str = "ada", **changes: object) -> UsedSession:
    fields: dict[str, object] = {"memory": 2 * GB, "cores": 0.5, "gpus": 0} | changes
    moments = [datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC) if text else None for text in (start, end)]
    return UsedSession("1f" * 16, user, "https://git.example.org/hello", "venv@sha256:00", *moments, **fields)  # type: ignore[arg-type]


def tally(*sessions: UsedSession, first: Month = OCTOBER, last: Month = NOVEMBER) -> Tally:
    made = Tally(first, last, NOW)
    for session in sessions:
        made.add(session)
    return made


def test_a_session_counts_with_what_was_reserved_for_as_long_as_it_ran() -> None:
    (row,) = tally(used("11-03 10:00", "11-03 14:00", gpus=2)).table().rows
    usage = row.usage
    assert (row.month, row.user) == (NOVEMBER, "ada")
    assert (usage.sessions, usage.server_hours, usage.memory_hours, usage.core_hours, usage.gpu_hours) == (
        1,
        4,
        8,
        2,
        8,
    )


def test_a_session_over_the_end_of_a_month_counts_in_both_with_its_parts() -> None:
    rows = tally(used("10-31 22:00", "11-01 03:00")).table().rows
    assert [(str(row.month), row.usage.server_hours) for row in rows] == [("2026-11", 3), ("2026-10", 2)]


def test_a_session_that_runs_counts_until_now_and_one_outside_the_span_for_nothing() -> None:
    rows = tally(used("11-19 00:00", None), used("09-01 00:00", "09-30 00:00", "boris")).table().rows
    assert [(row.user, row.usage.server_hours) for row in rows] == [("ada", 24)]


def test_people_and_months_are_summed_and_what_is_not_recorded_is_told() -> None:
    table = tally(
        used("11-01 00:00", "11-01 01:00"),
        used("11-02 00:00", "11-02 01:00", memory=None, cores=None),
        used("11-01 00:00", "11-01 01:00", "boris"),
        used("10-01 00:00", "10-01 01:00", "boris"),
    ).table()
    assert [(str(row.month), row.user, row.usage.sessions) for row in table.rows] == [
        ("2026-11", "ada", 2),
        ("2026-11", "boris", 1),
        ("2026-10", "boris", 1),
    ]
    assert [(str(month), usage.server_hours) for month, usage in table.by_month()] == [("2026-11", 3), ("2026-10", 1)]
    assert (table.total.sessions, table.total.memory_hours, table.total.unknown) == (4, 6, 1)


moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@given(moments, st.timedeltas(timedelta(seconds=1), timedelta(days=200)))
def test_the_months_of_a_session_add_up_to_the_whole_of_it(start: datetime, length: timedelta) -> None:
    session = UsedSession("x", "ada", "r", "i", start, start + length, GB, None, 0)
    made = Tally(Month(2025, 12), Month(2028, 12), datetime(2029, 1, 1, tzinfo=UTC))
    made.add(session)
    hours = [row.usage.server_hours for row in made.table().rows]
    assert sum(hours) == pytest.approx(length.total_seconds() / 3600)
    assert all(hours)
    assert len(hours) == 1 + sum(
        1 for _ in iterate_months(Month.of(start), Month.of(start + length - timedelta(microseconds=1)))
    )


def iterate_months(first: Month, last: Month) -> list[Month]:
    found: list[Month] = []
    while first < last:
        first = first.next
        found.append(first)
    return found


@pytest.mark.parametrize(
    ("month", "previous", "following"),
    [("2026-01", "2025-12", "2026-02"), ("2026-12", "2026-11", "2027-01"), ("2026-06", "2026-05", "2026-07")],
)
def test_months_follow_each_other(month: str, previous: str, following: str) -> None:
    found = Month.parse(month)
    assert (str(found), str(found.previous), str(found.next)) == (month, previous, following)


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "1999-01", "2026-1", "2026-01-01", "２０２６-01"])
def test_what_is_no_month_is_told(text: str) -> None:
    with pytest.raises(BadLink, match="2026-11"):
        Month.parse(text)


# from the database


async def a_launch(store: Store, number: int, vo: str, user: str = "ada") -> Launch:
    resolved = ref()
    name = ImageName.of(resolved, BuildRecipe("fake"))
    made = Launch(
        LaunchId(f"{number:032x}"),
        user,
        f"{number}",
        resolved,
        name,
        vo,
        "",
        LaunchState.STARTING,
        datetime.now(UTC),
        image=image(),
    )
    return await store.create_launch(made)


async def test_a_launch_counts_from_when_its_server_answered_until_it_ended(store: Store) -> None:
    usages = Usages(store)
    manager, month = Manager("mia", "vo.one"), Month.of(datetime.now(UTC))
    ran, waits, other = [
        await a_launch(store, number, vo) for number, vo in ((1, "vo.one"), (2, "vo.one"), (3, "vo.two"))
    ]
    for launch in (ran, other):
        await store.move_launch(launch.id, {LaunchState.STARTING}, LaunchState.RUNNING)
    (row,) = (await usages.table(manager, month.previous, month)).rows
    assert (row.user, row.usage.sessions) == ("ada", 1)
    await store.move_launch(ran.id, {LaunchState.RUNNING}, LaunchState.ENDED)
    await store.move_launch(waits.id, {LaunchState.STARTING}, LaunchState.FAILED, failure="no")
    (session,) = [session async for batch in usages.read(manager, month.previous, month) for session in batch]
    assert session.id == ran.id
    assert session.ended_at is not None
    assert session.ended_at >= session.running_at


async def test_usage_is_read_in_batches_and_none_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "_BATCH", 5)
    for number in range(6):
        launch = await a_launch(store, number, "vo.one")
        await store.move_launch(launch.id, {LaunchState.STARTING}, LaunchState.RUNNING)
    month = Month.of(datetime.now(UTC))
    batches = [len(batch) async for batch in Usages(store).read(Manager("mia", "vo.one"), month.previous, month)]
    assert batches == [5, 1]


@pytest.mark.parametrize(("first", "last"), [(NOVEMBER, OCTOBER), (Month(2024, 11), NOVEMBER)])
async def test_a_span_that_is_too_long_or_turned_around_is_refused(store: Store, first: Month, last: Month) -> None:
    with pytest.raises(BadLink, match="at most 24 months"):
        await Usages(store).table(Manager("mia", "vo.one"), first, last)


# as files


def test_the_csv_has_each_person_and_month_and_no_cell_is_a_formula() -> None:
    text = as_csv(tally(used("11-03 10:00", "11-03 14:00", '=HYPERLINK("http://evil",A1)')).table(), "vo,\none")
    head, row = list(csv.reader(io.StringIO(text)))
    assert dict(zip(head, row, strict=True)) == {
        "month": "2026-11",
        "vo": "vo,\none",
        "person": '\'=HYPERLINK("http://evil",A1)',
        "sessions": "1",
        "server_hours": "4.0000",
        "memory_gb_hours": "8.0000",
        "core_hours": "2.0000",
        "gpu_hours": "0.0000",
        "sessions_without_record_of_resources": "0",
    }


def fields_of(record: str) -> dict[str, str]:
    *lines, last = record.splitlines()
    assert last == "%%"
    return dict(line.split(": ", 1) for line in lines)


def test_a_session_is_a_cloud_usage_record() -> None:
    fields = fields_of(cloud_record(used("11-03 10:00", "11-03 14:00"), "SITE", "replay.example.org", "vo.one", NOW))
    start = int(datetime(2026, 11, 3, 10, tzinfo=UTC).timestamp())
    assert fields == {
        "VMUUID": "1f" * 16,
        "SiteName": "SITE",
        "CloudComputeService": "replay.example.org",
        "MachineName": f"replay-{'1f' * 16}",
        "LocalUserId": "ada",
        "LocalGroupId": "vo.one",
        "GlobalUserName": "ada",
        "FQAN": "vo.one",
        "Status": "completed",
        "StartTime": str(start),
        "EndTime": str(start + 4 * 3600),
        "SuspendDuration": "0",
        "WallDuration": str(4 * 3600),
        "CpuCount": "1",
        "Memory": "2048",
        "ImageId": "venv@sha256:00",
        "CloudType": "EGI Replay",
    }
    assert CLOUD_HEAD == "APEL-cloud-message: v0.4\n"


def test_the_record_of_a_session_that_runs_has_no_end_and_tells_nothing_that_is_not_known() -> None:
    fields = fields_of(cloud_record(used("11-19 00:00", None, memory=None, cores=None), "SITE", "", "vo.one", NOW))
    assert (fields["Status"], fields["WallDuration"]) == ("started", str(24 * 3600))
    assert not {"EndTime", "Memory", "CpuCount", "CloudComputeService", "CpuDuration"} & fields.keys()


def test_no_name_begins_a_field_or_ends_a_record() -> None:
    fields = fields_of(cloud_record(used("11-19 00:00", None, "ada\n%%\nFQAN: vo.evil"), "SITE", "", "vo.one", NOW))
    assert (fields["GlobalUserName"], fields["FQAN"]) == ("ada %% FQAN: vo.evil", "vo.one")


def test_gpus_have_records_of_their_own_by_month() -> None:
    sessions = [used("10-31 22:00", "11-01 03:00", gpus=2), used("11-01 00:00", "11-01 01:00")]
    message = json.loads(gpu_message(gpu_records(sessions, NOVEMBER, "SITE", "", "vo.one", NOW)))
    assert (message["Type"], message["Version"]) == ("APEL-accelerator-message", "0.1")
    (record,) = message["UsageRecords"]
    assert record == {
        "MeasurementMonth": 11,
        "MeasurementYear": 2026,
        "AssociatedRecordType": "cloud",
        "AssociatedRecord": "1f" * 16,
        "GlobalUserName": "ada",
        "FQAN": "vo.one",
        "SiteName": "SITE",
        "CloudType": "EGI Replay",
        "Count": 2,
        "AvailableDuration": 3 * 3600,
        "ActiveDuration": 3 * 3600,
        "Type": "GPU",
    }
