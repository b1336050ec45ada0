"""What an archive says of its limit of requests is seen by those who run a site."""

import httpx
import pytest
from prometheus_client import generate_latest

from replay_build_service import metrics
from replay_build_service.sources.asking import RateLimits

pytestmark = pytest.mark.one_hub_version


def shown() -> list[str]:
    lines = generate_latest(metrics.REGISTRY).decode().splitlines()
    return [line for line in lines if line.startswith("replay_source_requests_left{")]


def test_what_is_left_is_shown_as_the_source_last_said_it() -> None:
    limits = RateLimits(lambda: 1000.0)
    with metrics.sources_watched(limits.remaining):
        assert shown() == []
        for left in ("41", "40"):
            limits.note("api.osf.io", httpx.Response(200, headers={"X-RateLimit-Remaining": left}))
        limits.note("zenodo.org", httpx.Response(200, headers={"RateLimit-Remaining": "7"}))
        limits.note("figshare.com", httpx.Response(200))
        limits.note("elsewhere.example.org", httpx.Response(200, headers={"RateLimit-Remaining": "many"}))
        assert sorted(shown()) == [
            'replay_source_requests_left{host="api.osf.io"} 40.0',
            'replay_source_requests_left{host="zenodo.org"} 7.0',
        ]
    assert shown() == [], "it ends with the service"
