"""Policies of VOs in the chart: the values, the file that the service reads, and its schema."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from replay_build_service.policy_file import parse_policies
from replay_build_service.policy_schema import json_schema
from replay_build_service.policy_values import GPUs, Resources
from replay_build_service.rulings import Terms
from tests.unit.chart_rendering import CHART, LEAST, POLICIES, environment, one, pods, refusal, render

pytestmark = pytest.mark.hub_independent


def test_the_policies_of_the_values_are_those_that_the_service_reads() -> None:
    documents = render(POLICIES)
    file = one(documents, "ConfigMap", "replay")["data"]["policies.yaml"]
    found = parse_policies(file)
    assert [policy.vo for policy in found.policies] == ["students", "vo.example.org"]
    (_, policy) = found.policies
    assert policy.resources == Resources(2 * 1024**3, 4 * 1024**3, gpus=GPUs("nvidia.com/gpu", 1))
    assert policy.terms == Terms("1.10", "Be kind.\n\n'Cite' us: always.")
    (service,) = [pod for name, pod in pods(documents) if name == "replay"]
    assert environment(service["containers"][0])["REPLAY_POLICIES"] == "/etc/replay/policies.yaml"
    (etc,) = [volume for volume in service["volumes"] if volume["name"] == "etc"]
    assert {"key": "policies.yaml", "path": "policies.yaml"} in etc["projected"]["sources"][0]["configMap"]["items"]


def test_without_policies_there_is_no_file() -> None:
    documents = render()
    assert "policies.yaml" not in one(documents, "ConfigMap", "replay")["data"]
    (service,) = [pod for name, pod in pods(documents) if name == "replay"]
    assert "REPLAY_POLICIES" not in environment(service["containers"][0])


def test_the_values_have_the_schema_of_the_file() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    published = json.loads(json.dumps(json_schema()).replace("#/$defs/", "#/definitions/"))
    parts = published.pop("$defs")
    del published["$schema"]
    assert schema["definitions"] == {**parts, "PoliciesPart": published}


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ({"vos": {"a": {"memroy": {}}}}, "Additional property memroy is not allowed"),
        ({"vos": {"a": {"features": {"token": "maybe"}}}}, "must be one of the following"),
        ({"vos": {"a": {"servers": 0}}}, "Must be greater than or equal to 1"),
        ({"vos": {}}, "Must have at least 1 properties"),
        ({"defaults": {}}, "vos is required"),
    ],
)
def test_helm_refuses_policies_that_the_service_would_refuse(policies: Mapping[str, Any], told: str) -> None:
    assert told in refusal({**LEAST, "policies": policies})
