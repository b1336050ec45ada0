"""A VO's usage: as a page, as CSV, and in the shapes that EGI's accounting reads."""

import re
from datetime import UTC, datetime

from replay_build_service.errors import Conflict
from replay_build_service.managing.accounting import CLOUD_HEAD, cloud_record, gpu_message, gpu_records
from replay_build_service.managing.usage import MOST_MONTHS, Month, as_csv
from replay_build_service.web.managers import ManagerPage, months_asked


class UsagePage(ManagerPage):
    """``vo/VO/usage``: by person and month."""

    here = "usage"

    async def get(self, vo: str) -> None:
        first, last = months_asked(self)
        table = await self.site.managing.usages.table(self.manager, first, last)
        self.render_vo(
            "managers_usage.html",
            table=table,
            first=first,
            last=last,
            most_months=MOST_MONTHS,
            has_accounting=bool(self.site.managing.accounting_site),
        )


class UsageFile(ManagerPage):
    """What all files have: they are kept, not shown."""

    def name_file(self, kind: str, ending: str, first: Month, last: Month) -> None:
        """The file's name as a browser keeps it: of plain letters, whatever the VO's name holds."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.manager.vo).strip("-.")[:80]
        span = str(first) if first == last else f"{first}-to-{last}"
        self.set_header("Content-Disposition", f'attachment; filename="{kind}-{slug}-{span}.{ending}"')

    def accounting_names(self) -> tuple[str, str]:
        """Site and service. Raises `Conflict` where the admin has named no site."""
        managing = self.site.managing
        if not managing.accounting_site:
            raise Conflict(
                "Accounting records name the site, and none is configured here. An administrator sets accounting_site "
                "to this site’s name in GOCDB. The CSV needs no such name."
            )
        return managing.accounting_site, managing.accounting_service


class UsageCsv(UsageFile):
    """``vo/VO/usage.csv``: what the page shows, for a spreadsheet."""

    async def get(self, vo: str) -> None:
        first, last = months_asked(self)
        table = await self.site.managing.usages.table(self.manager, first, last)
        self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
        self.name_file("usage", "csv", first, last)
        self.finish(as_csv(table, self.manager.vo))


class CloudRecords(UsageFile):
    """``vo/VO/usage.apel``: a cloud usage record of each session."""

    async def get(self, vo: str) -> None:
        site, service = self.accounting_names()
        first, last = months_asked(self)
        now = datetime.now(UTC)
        batches = self.site.managing.usages.read(self.manager, first, last)
        parts = [CLOUD_HEAD]
        async for batch in batches:
            parts += [cloud_record(session, site, service, self.manager.vo, now) for session in batch]
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.name_file("cloud-records", "apel", first, last)
        self.finish("".join(parts))


class GpuRecords(UsageFile):
    """``vo/VO/usage-gpus.json``: an accelerator record of each session that had GPUs, for one month."""

    async def get(self, vo: str) -> None:
        site, service = self.accounting_names()
        _, month = months_asked(self)
        now = datetime.now(UTC)
        records: list[dict[str, str | int]] = []
        async for batch in self.site.managing.usages.read(self.manager, month, month):
            records += gpu_records(batch, month, site, service, self.manager.vo, now)
        self.set_header("Content-Type", "application/json")
        self.name_file("gpu-records", "json", month, month)
        self.finish(gpu_message(records))
