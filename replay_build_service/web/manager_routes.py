"""The addresses of the pages of VO managers. A VO's name is one part of an address, whatever it holds, percent-encoded."""

from tornado.routing import URLSpec
from tornado.web import url

from replay_build_service.web.manager_forms import (
    BlockPerson,
    BuildAhead,
    CallOffEvent,
    Events,
    LiftBlock,
    RemoveRule,
    Rules,
    SetBanner,
    SetTerms,
    StopSession,
)
from replay_build_service.web.manager_usage import CloudRecords, GpuRecords, UsageCsv, UsagePage
from replay_build_service.web.managers import (
    AuditPage,
    BuildPage,
    BuildsPage,
    EventPage,
    ExplainPage,
    LaunchesPage,
    SessionsPage,
    WholeAuditPage,
)


def manager_routes(base: str) -> list[URLSpec]:
    """``vo/VO`` and all below it, and the administrators' ``audit``."""
    vo = base + r"vo/([^/]+)"
    number = r"([0-9a-f]{16})"
    return [
        url(base + "audit", WholeAuditPage),
        url(vo, SessionsPage),
        url(vo + r"/sessions/([0-9a-f]{32})/stop", StopSession),
        url(vo + "/launches", LaunchesPage),
        url(vo + "/builds", BuildsPage),
        url(vo + f"/builds/{number}", BuildPage),
        url(vo + "/usage", UsagePage),
        url(vo + r"/usage\.csv", UsageCsv),
        url(vo + r"/usage\.apel", CloudRecords),
        url(vo + r"/usage-gpus\.json", GpuRecords),
        url(vo + "/rules", Rules),
        url(vo + f"/rules/{number}/remove", RemoveRule),
        url(vo + "/blocks", BlockPerson),
        url(vo + "/blocks/lift", LiftBlock),
        url(vo + "/banner", SetBanner),
        url(vo + "/terms", SetTerms),
        url(vo + "/explain", ExplainPage),
        url(vo + "/events", Events),
        url(vo + f"/events/{number}", EventPage),
        url(vo + f"/events/{number}/build", BuildAhead),
        url(vo + f"/events/{number}/call-off", CallOffEvent),
        url(vo + "/audit", AuditPage),
    ]
