"""What Prometheus is told: on its own address alone, of builds and launches that really happened."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.people import ADA
from tests.login_fixtures import free_ports
from tests.requirements import ROOT
from tests.site import ApiClient, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version]


@pytest.fixture(scope="module")
def address() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def counting(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Sites(tmp_path_factory.mktemp("metrics")) as sites:
        yield sites.start(settings={"METRICS_ADDRESS": address})


@pytest.fixture
def ada(counting: Site) -> ApiClient:
    return counting.client(ADA)


def told(address: str) -> dict[str, float]:
    """Samples by name and labels."""
    answer = httpx.get(f"http://{address}/metrics", timeout=10).raise_for_status()
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_builds_and_launches_are_counted(counting: Site, ada: ApiClient, address: str) -> None:
    good = counting.repository("good", {"requirements.txt": "six==1.17.0\n"})
    bad = counting.repository("bad", {"requirements.txt": "six==0.0.0.nothing\n"})
    ada.launch_and_wait(good)
    counting.stop_server(ADA)
    ada.launch_and_wait(good)
    counting.stop_server(ADA)
    ada.launch_and_fail(bad)

    found = told(address)

    assert found["replay_builds_total succeeded"] == 1
    failed = sum(value for name, value in found.items() if re.fullmatch(r"replay_builds_total (?!succeeded)\w+", name))
    assert failed == 1
    assert found["replay_build_seconds_count"] == 2
    assert found["replay_builds_going_on"] == 0
    assert (found["replay_launches_total ready"], found["replay_launches_total failed"]) == (2, 1)
    assert found["replay_launch_seconds_count"] == 2
    assert 0 < found["replay_launch_seconds_sum"] < 600


def test_no_label_names_a_person_or_a_repository(counting: Site, ada: ApiClient, address: str) -> None:
    ada.launch_and_wait(counting.repository("named", {"requirements.txt": "six==1.17.0\n"}))
    counting.stop_server(ADA)
    text = httpx.get(f"http://{address}/metrics", timeout=10).text
    assert set(re.findall(r"(\w+)=\"", text)) <= {"result", "le"}
    assert ADA.voperson_id not in text


def test_people_do_not_find_them(counting: Site, ada: ApiClient) -> None:
    assert "replay_builds" not in httpx.get(f"{counting.url}/services/replay/metrics", follow_redirects=True).text
    assert ada.http.get("metrics").status_code == 404


@pytest.mark.parametrize("named", ["nowhere", "127.0.0.1:http", ":9100", "203.0.113.9:9100"])
def test_an_address_that_cannot_be_had_ends_the_service_with_a_sentence(named: str, tmp_path: Path) -> None:
    """The last is one of documentation (RFC 5737), which no machine has."""
    command = [sys.executable, "-m", "replay_build_service.app", "run", f"--ReplayBuildService.metrics_address={named}"]
    known = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "JUPYTERHUB_API_TOKEN": "none",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Metrics cannot be served: " in done.stderr
    assert "Traceback" not in done.stderr
