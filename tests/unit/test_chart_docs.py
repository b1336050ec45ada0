"""What docs/zero-to-jupyterhub.md shows is what the chart takes and has."""

import re
import shlex

import pytest
import yaml

from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART, one, pods, render

pytestmark = pytest.mark.hub_independent

PAGE = (ROOT / "docs" / "zero-to-jupyterhub.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = PAGE.split("```")[1::2]
    return [text.removeprefix(language).lstrip("\n") for text in fenced if text.partition("\n")[0] == language]


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("") for line in block.replace("\\\n", " ").splitlines()]


def test_its_values_are_the_charts() -> None:
    values, _, more = (yaml.safe_load(block) for block in blocks("yaml"))
    documents = render(values)
    (service,) = [pod for name, pod in pods(documents) if name == "replay"]
    told = {variable["name"]: variable["value"] for variable in service["containers"][0]["env"]}
    assert told["REPLAY_VOS"] == "researchers=https://enrol.example.org"
    assert told["REPLAY_BUILD_NAMESPACE"] == "jupyter-builds"
    assert told["REPLAY_BUILD_PUSH_SECRET"] == "replay-push"
    extra = one(render({**values, "service": {**values["service"], **more["service"]}}), "ConfigMap", "replay")["data"]
    assert extra["extra-limits.py"].strip() == "c.ReplayBuildService.build_timeout = 3600"


def test_its_commands_name_files_and_objects_that_are_there() -> None:
    words = [word for command in commands() for word in command]
    for file in (word for word in words if word.startswith("charts/")):
        assert (ROOT / file).exists(), file
    secrets = {
        command[4] for command in commands() if command[:4] == ["kubectl", "create", "secret", "docker-registry"]
    }
    (values, _, _) = (yaml.safe_load(block) for block in blocks("yaml"))
    assert secrets == {values["registry"]["secret"], values["registry"]["pushSecret"]}
    removed = {command[3] for command in commands() if command[:3] == ["kubectl", "delete", "secret"]}
    assert removed == {values["registry"]["secret"]}  # the other one goes with its namespace


def test_each_command_of_it_is_in_its_table_of_what_was_run_and_what_was_not() -> None:
    text, _, table = PAGE.partition("## What was run, and what was not")
    in_text = [shlex.split(code) for code in re.findall(r"`((?:helm|kubectl|docker|make) [^`]+)`", text)]
    named = {found.strip() for found in re.findall(r"`((?:helm|kubectl|docker|make) [^`]+)`", table)}
    named |= {"helm install", "helm uninstall"}  # with `helm upgrade`, in one cell
    said = [
        command
        for command in [*commands(), *in_text]
        if command and command[0] in {"helm", "kubectl", "docker", "make"}
    ]
    assert len(said) > 15
    for command in said:
        assert any(command[: len(words)] == words for words in map(str.split, named)), command


def test_its_login_is_by_variables_that_the_configuration_knows() -> None:
    _, login, _ = (yaml.safe_load(block) for block in blocks("yaml"))
    head = (ROOT / "jupyterhub_config.py").read_text().split('"""')[1]
    for name in login["hub"]["extraEnv"]:
        assert name in head
    assert "REPLAY_OIDC_CLIENT_ID" in (CHART / "values-z2jh.yaml").read_text()


def test_the_tests_that_it_names_are_there() -> None:
    for file in set(re.findall(r"`?(tests/[\w/]+\.py)", PAGE)):
        assert (ROOT / file).exists(), file
