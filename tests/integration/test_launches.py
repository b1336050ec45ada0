"""From a launch to a server, over the API: the reference configuration on a real hub."""

from collections.abc import Iterator

import httpx
import pytest

from demo.people import ADA
from tests.site import ApiClient, Repo, Site

pytestmark = pytest.mark.needs("proxy", "git-server")


@pytest.fixture(scope="module")
def repo(site: Site) -> Repo:
    return site.repository("plain", {"requirements.txt": "six==1.17.0\n", "hello.txt": "from the repository\n"})


@pytest.fixture
def ada(site: Site) -> Iterator[ApiClient]:
    client = site.client(ADA)
    yield client
    site.stop_server(ADA)


def test_a_launch_becomes_a_server_of_that_commit(site: Site, ada: ApiClient, repo: Repo) -> None:
    launch = ada.launch_and_wait(repo)
    assert (launch["state"], launch["version"]) == ("running", repo.commit)
    server = site.server(ADA)
    assert server is not None
    assert server["user_options"] == {"launch": launch["id"]}
    status = httpx.get(f"{site.url}{server['url']}api/contents/hello.txt", headers={"Authorization": f"token {ada.token}"})
    assert status.json()["content"] == "from the repository\n"
