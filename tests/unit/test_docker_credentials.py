"""What of an account's ``config.json`` a build gets to see: what its own registry asks for, and nobody else's."""

import json
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.builders.docker.credentials import narrowed_config

HOST = "registry.example.org:5000"
OURS = {"auth": "b3Vyczpob3JzZQ=="}
SECRET = "hunter2"
THEIRS = {"auth": SECRET}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An account's own, in a folder with nothing else."""
    folder = tmp_path / "docker"
    folder.mkdir()
    return folder / "config.json"


def narrowed(file: Path, told: object, host: str | None = HOST) -> Any:
    file.write_text(json.dumps(told))
    text = narrowed_config(file, host)
    assert SECRET not in text
    return json.loads(text)


def test_an_account_of_another_registry_is_left_out(file: Path) -> None:
    others = {"registry.example.org": THEIRS, f"https://{HOST}.evil/": THEIRS, "https://index.docker.io/v1/": THEIRS}
    assert narrowed(file, {"auths": {**others, HOST: OURS}}) == {"auths": {HOST: OURS}}
    assert narrowed(file, {"auths": others}) == {}


def test_a_program_that_keeps_all_accounts_is_asked_for_this_registry_alone(file: Path) -> None:
    assert narrowed(file, {"credsStore": "pass"}) == {"credHelpers": {HOST: "pass"}}


def test_of_programs_for_one_registry_each_only_this_registrys_is_left(file: Path) -> None:
    helpers = {"quay.io": SECRET, HOST: "ours"}
    assert narrowed(file, {"credHelpers": helpers, "credsStore": SECRET}) == {"credHelpers": {HOST: "ours"}}
    assert narrowed(file, {"credHelpers": {"quay.io": SECRET}}) == {}


def test_without_a_registry_a_build_has_no_account_at_all(file: Path) -> None:
    told = {"auths": {HOST: THEIRS}, "credHelpers": {HOST: SECRET}, "credsStore": SECRET, "cliPluginsExtraDirs": ["/p"]}
    assert narrowed(file, told, None) == {"cliPluginsExtraDirs": ["/p"]}


@pytest.mark.parametrize("host", [HOST, None])
@pytest.mark.parametrize(
    "more",
    [
        {"proxies": {"default": {"httpProxy": f"http://me:{SECRET}@proxy:3128"}}},
        {"HttpHeaders": {"Authorization": SECRET}},
        {"plugins": {"x": {"token": SECRET}}},
        {"aliases": {"builder": SECRET}, "currentContext": SECRET},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_a_build_could_print_or_send_elsewhere_is_not_kept(
    file: Path, more: dict[str, object], host: str | None
) -> None:
    """buildx makes build arguments of ``proxies``, which every step can read."""
    assert narrowed(file, more, host) == {}


def test_a_plugin_beside_the_file_is_found_from_elsewhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = file.parent / "cli-plugins"
    plugins.mkdir()
    assert narrowed(file, {}) == {"cliPluginsExtraDirs": [str(plugins)]}
    assert narrowed(file, {"cliPluginsExtraDirs": ["/usr/p"]}) == {"cliPluginsExtraDirs": ["/usr/p", str(plugins)]}
    monkeypatch.chdir(file.parent)
    assert narrowed(Path("config.json"), {}) == {"cliPluginsExtraDirs": [str(plugins)]}


def test_without_a_file_there_is_nothing(file: Path) -> None:
    assert narrowed_config(file, HOST) == "{}"
    assert narrowed_config(file.parent / "nowhere" / "config.json", HOST) == "{}"


def test_a_plugin_is_found_where_there_is_no_file_either(file: Path) -> None:
    plugins = file.parent / "cli-plugins"
    plugins.mkdir()
    assert json.loads(narrowed_config(file, HOST)) == {"cliPluginsExtraDirs": [str(plugins)]}


@pytest.mark.parametrize("text", ["", "{", '{"auths": hunter2}', b'{"auths": "\xff"}'])
def test_a_file_that_is_no_json_is_an_error_that_names_it(file: Path, text: str | bytes) -> None:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OSError, match="it is no JSON") as broken:
        narrowed_config(file, HOST)
    assert broken.value.filename == str(file)
    assert SECRET not in str(broken.value)


@pytest.mark.parametrize("told", [[], 1, None, {"auths": [HOST]}, {"auths": None, "credHelpers": HOST}])
def test_a_file_of_another_shape_gives_nothing(file: Path, told: object) -> None:
    assert narrowed(file, told) == {}
