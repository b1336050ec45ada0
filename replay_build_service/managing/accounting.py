"""Sessions in the shape that EGI's accounting reads. Pure.

The cloud usage record, version 0.4 (``APEL-cloud-message: v0.4``), and the draft of the accelerator's record:
https://docs.egi.eu/internal/accounting/record-and-message-formats/cloud-accounting/. Which fields the receiving side wants,
and as which type, was read from apel's ``apel/db/records/cloud.py`` (https://github.com/apel/apel): ``VMUUID``, ``SiteName`` and
``StartTime`` must be there, times are seconds since 1970, ``EndTime`` is there where the status is ``completed`` alone. How
notebooks fill it is that of https://github.com/EGI-Federation/egi-notebooks-accounting: the person as ``GlobalUserName``, their VO as
``FQAN``, a session as a machine.

Not proven: no record made here was sent to EGI's accounting or read by it. Not told, since it is not measured:
``CpuDuration``, network and disk. Memory and processors are what was reserved, memory in MB (1024² bytes), processors rounded up.
"""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime

from replay_build_service.managing.usage import Month
from replay_build_service.records import UsedSession

CLOUD_HEAD = "APEL-cloud-message: v0.4\n"
CLOUD_TYPE = "EGI Replay"
_END = "%%\n"


def cloud_record(session: UsedSession, site: str, service: str, vo: str, now: datetime) -> str:
    """One session as a record, with the end of it. The message is `CLOUD_HEAD` and these."""
    ended = session.ended_at
    fields: dict[str, str | int | None] = {
        "VMUUID": session.id,
        "SiteName": site,
        "CloudComputeService": service or None,
        "MachineName": f"replay-{session.id}",
        "LocalUserId": session.user,
        "LocalGroupId": vo,
        "GlobalUserName": session.user,
        "FQAN": vo,
        "Status": "completed" if ended else "started",
        "StartTime": _seconds(session.running_at),
        "EndTime": _seconds(ended) if ended else None,
        "SuspendDuration": 0,
        "WallDuration": max(0, _seconds(ended or now) - _seconds(session.running_at)),
        "CpuCount": None if session.cores is None else math.ceil(session.cores),
        "Memory": None if session.memory is None else session.memory // 1024**2,
        "ImageId": session.image or None,
        "CloudType": CLOUD_TYPE,
    }
    return "".join(f"{name}: {_one_line(value)}\n" for name, value in fields.items() if value is not None) + _END


def gpu_records(
    sessions: Iterable[UsedSession], month: Month, site: str, service: str, vo: str, now: datetime
) -> Iterator[dict[str, str | int]]:
    """A record for each session that had GPUs in that month."""
    for session in sessions:
        begins, ends = max(session.running_at, month.start), min(session.ended_at or now, month.next.start)
        if not session.gpus or ends <= begins:
            continue
        seconds = round((ends - begins).total_seconds())
        record: dict[str, str | int] = {
            "MeasurementMonth": month.number,
            "MeasurementYear": month.year,
            "AssociatedRecordType": "cloud",
            "AssociatedRecord": session.id,
            "GlobalUserName": session.user,
            "FQAN": vo,
            "SiteName": site,
            "CloudType": CLOUD_TYPE,
            "Count": session.gpus,
            "AvailableDuration": seconds,
            "ActiveDuration": seconds,
            "Type": "GPU",
        }
        yield record | ({"CloudComputeService": service} if service else {})


def gpu_message(records: Iterable[dict[str, str | int]]) -> str:
    """The accelerator's message, JSON."""
    whole = {"Type": "APEL-accelerator-message", "Version": "0.1", "UsageRecords": list(records)}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _one_line(value: str | int) -> str:
    # A line is a field: what a name holds must not begin another, nor end the record.
    return " ".join(str(value).split())[:255]
