"""What handlers answer by themselves: the service's routes over HTTP, with a site of which only what they ask is there."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from replay_build_service.domain import Person, Resources
from replay_build_service.errors import NotPermitted
from replay_build_service.policies import PolicySet
from replay_build_service.web import make_application
from replay_build_service.web.base import enrolments_of

HOME = "/services/replay/"


class FailingStore:
    fails = True

    async def ping(self) -> None:
        if self.fails:
            raise OSError("the disk is gone")


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
async def service(store: FailingStore) -> AsyncIterator[httpx.AsyncClient]:
    site: Any = SimpleNamespace(base_url=HOME, store=store)
    server = HTTPServer(make_application(site, b"secret"))
    socket, port = bind_unused_port()
    server.add_socket(socket)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{HOME}", trust_env=False) as client:
        yield client
    server.stop()
    await server.close_all_connections()


async def test_health_blames_the_database_where_it_is_the_database(
    service: httpx.AsyncClient, store: FailingStore
) -> None:
    answer = await service.get("health")
    assert (answer.status_code, answer.json()["message"]) == (503, "The database does not answer.")
    store.fails = False
    assert (await service.get("health")).status_code == 200


def test_who_is_in_no_vo_is_told_where_one_joins_those_that_would_do() -> None:
    vos = {
        "with-a-page": "https://vo.example.org/join?a=b&c=d",
        "without": "",
        "on-a-plain-page": "HTTP://vo.example.org/",
        "with-a-script": "javascript:alert(1)",
        "with-data": "data:text/html,x",
    }
    with pytest.raises(NotPermitted) as refused:
        PolicySet.alike(vos, Resources()).permitted(Person("ada", frozenset({"another"})))
    assert [name for name, _ in refused.value.vos] == sorted(vos)
    assert enrolments_of(refused.value) == [
        ("on-a-plain-page", "HTTP://vo.example.org/"),
        ("with-a-page", "https://vo.example.org/join?a=b&c=d"),
    ]


@pytest.mark.parametrize("error", [None, ValueError("x"), NotPermitted("You are not in vo.one.")])
def test_other_errors_name_no_vos(error: object) -> None:
    assert enrolments_of(error) == []
