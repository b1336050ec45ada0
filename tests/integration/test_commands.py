"""``replay-build-service`` as an operator types it, and the reference configuration as the hub reads it."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from traitlets.config.loader import PyFileConfigLoader

from replay_build_service.db import shown_url
from tests.requirements import ROOT

pytestmark = pytest.mark.one_hub_version

SERVICE = {
    "JUPYTERHUB_API_TOKEN": "x",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9",
    "JUPYTERHUB_CLIENT_ID": "service-replay",
}
"""What the hub sets for its services."""


def replay(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTERHUB_"))}
    return subprocess.run(
        [sys.executable, "-m", "replay_build_service.app", *arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_setting_is_printed_with_its_default_and_its_meaning(tmp_path: Path) -> None:
    done = replay("--generate-config", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for setting in (
        "vos",
        "mem_limit",
        "allowed_hosts",
        "archive_hosts",
        "exempt_origins",
        "build_timeout",
        "python_downloads",
    ):
        assert re.search(rf"^# c\.ReplayBuildService\.{setting} = ", done.stdout, re.MULTILINE), setting
    # Every line of it can be used as it is, and changes nothing.
    config = tmp_path / "generated.py"
    config.write_text(re.sub(r"^# (c\.)", r"\1", done.stdout, flags=re.MULTILINE))
    made = replay("upgrade-db", "--config", str(config), folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "replay-state" / "replay.sqlite").exists()
    assert "c.ReplayBuildService.log_level = 'INFO'" in config.read_text()
    assert "\nc.Application." not in config.read_text(), "no setting twice, with two defaults"
    started = replay("run", "--config", str(config), folder=tmp_path)
    assert "JUPYTERHUB_API_TOKEN" in started.stderr


def test_the_help_names_the_commands(tmp_path: Path) -> None:
    done = replay("--help", folder=tmp_path)
    assert done.returncode == 0
    for said in ("Commands", "\nrun\n", "\nupgrade-db\n", "\npolicy\n", "A SQLite file is copied first", "--config"):
        assert said in done.stdout, said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "nofile.py"], r"There is no configuration file /.*/nofile\.py\."),
        (
            ["--config", "fails.py"],
            r"The configuration fails\.py cannot be used \(.*/fails\.py, line 2\): KeyError: 'MISSING'",
        ),
        (["--config", "broken.py"], r"The configuration broken\.py cannot be used .*SyntaxError"),
        (["--config", "settings.conf"], r"settings\.conf must be a \.py or a \.json file"),
        (["--config", "wrong.py"], r"build_timeout"),
        (["--confg", "fails.py"], r"There is no option --confg"),
        (["fails.py"], r"“fails\.py” is not understood"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_configuration_that_cannot_be_used_is_never_replaced_by_defaults(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "fails.py").write_text('import os\nos.environ["MISSING"]\n')
    (tmp_path / "broken.py").write_text("c.\n")
    (tmp_path / "wrong.py").write_text('c.ReplayBuildService.build_timeout = "long"\n')
    (tmp_path / "settings.conf").touch()
    done = replay("upgrade-db", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "replay-state").exists(), "another database was made"


@pytest.mark.parametrize(
    ("setting", "entry", "sentence"),
    [
        ("exempt_origins", "127.0.0.1:8080", "“127.0.0.1:8080” is no origin such as http://127.0.0.1:8080."),
        ("allowed_hosts", "https://example.org", "“https://example.org” names no port that could exist."),
    ],
)
def test_a_rule_that_could_never_match_ends_the_service_with_one_sentence(
    tmp_path: Path, setting: str, entry: str, sentence: str
) -> None:
    (tmp_path / "config.py").write_text(f"c.ReplayBuildService.{setting} = [{entry!r}]\n")
    done = replay("run", "--config", "config.py", folder=tmp_path, **SERVICE)
    assert done.returncode == 1
    assert done.stderr == f"ReplayBuildService.{setting}: {sentence}\n"


def test_a_file_of_policies_is_checked_and_its_faults_are_told_with_their_lines(tmp_path: Path) -> None:
    good = replay("policy", "check", str(ROOT / "docs" / "policies-egi-replay.yaml"), folder=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert "policies for vo.notebooks.egi.eu, vo.access.egi.eu," in good.stdout
    (tmp_path / "bad.yaml").write_text("vos:\n  a:\n    servers: -1\n    memroy: {}\n")
    for arguments in (["policy", "check", "bad.yaml"], ["run", "--config", "config.py"]):
        (tmp_path / "config.py").write_text("c.ReplayBuildService.policy_file = 'bad.yaml'\n")
        done = replay(*arguments, folder=tmp_path, **SERVICE)
        assert done.returncode == 1
        first, second = done.stderr.splitlines()
        assert first == "bad.yaml, line 3: “servers” is -1, and must be at least 1."
        assert second.startswith("bad.yaml, line 4: There is no key “memroy” here.")
    assert not (tmp_path / "replay-state").exists(), "something was begun"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "policy check FILE: end with 1"),
        (["chekc"], "policy check FILE: end with 1"),
        (["check"], "Name the file: replay-build-service policy check FILE."),
        (["check", "none.yaml"], "The policies cannot be read from none.yaml: No such file or directory."),
        (["explain", "--user", "ada"], "the following arguments are required: --repo"),
        (["explain", "--user", "ada", "--repo", "gh/o/r/HEAD"], "Name the person's groups with --groups A,B."),
        (
            ["explain", "--user", "ada", "--repo", "gh/o/r", "--groups", "a"],
            "This link names no branch, tag or commit.",
        ),
    ],
)
def test_a_command_about_policies_that_says_too_little_is_told_what_is_missing(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    done = replay("policy", *arguments, folder=tmp_path)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "replay-state").exists()


def test_without_a_database_and_a_hub_the_policies_alone_are_explained(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("c.ReplayBuildService.vos = {'vo.one': ''}\n")
    question = ["--user", "ada", "--repo", "gh/Octocat/Hello/HEAD", "--groups", "vo.one, another"]
    done = replay("policy", "explain", *question, "--config", "config.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "gh/Octocat/Hello/HEAD may be launched by ada for vo.one (in another, vo.one).\nDecides: limits.\n"
    )
    assert "nothing is counted, and no manager has decided anything" in done.stdout
    assert not (tmp_path / "replay-state").exists()


def test_what_is_in_force_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "some_config.py"
    config.write_text('c.ReplayBuildService.build_timeout = 77\nc.ReplayBuildService.mem_limit = "3G"\n')
    shown = replay("--config", str(config), "--show-config", folder=tmp_path)
    assert "build_timeout = 77" in shown.stdout
    assert "mem_limit = '3G'" in shown.stdout


def test_the_database_is_made_once(tmp_path: Path) -> None:
    made = replay("upgrade-db", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    database = tmp_path / "replay-state" / "replay.sqlite"
    assert made.stdout == f"sqlite:///{database}: The database went from revision none to 0005.\n"
    assert "already" in replay("upgrade-db", folder=tmp_path).stdout
    assert [path.name for path in database.parent.iterdir()] == ["replay.sqlite"], "there was nothing to copy"


def test_an_older_database_is_refused_upgraded_and_kept_as_a_copy(tmp_path: Path) -> None:
    database = tmp_path / "older.sqlite"
    (tmp_path / "config.py").write_text(f'c.ReplayBuildService.db_url = "sqlite:///{database}"\n')
    with closing(sqlite3.connect(database)) as older:
        # As a service that was killed leaves it: what was written last is in the file beside it.
        older.execute("PRAGMA journal_mode = WAL")
        older.execute("PRAGMA wal_autocheckpoint = 0")
        older.execute("CREATE TABLE notes (word TEXT)")
        older.execute("INSERT INTO notes VALUES ('kept')")
        older.commit()
        refused = replay("run", "--config", "config.py", folder=tmp_path, **SERVICE)
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert f"The database sqlite:///{database} is at revision none" in refused.stderr
        told = re.search(r"replay-build-service (upgrade-db .*)$", refused.stderr, re.MULTILINE)
        assert told, refused.stderr
        assert told[1] == f"upgrade-db --config {tmp_path / 'config.py'}"
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        upgraded = replay(*told[1].split(), folder=elsewhere)
        assert upgraded.returncode == 0, upgraded.stderr
    (backup,) = tmp_path.glob("older.sqlite.*.backup")
    assert str(backup) in upgraded.stdout
    assert backup.stat().st_mode == database.stat().st_mode
    for file in (backup, database):
        with closing(sqlite3.connect(file)) as kept:
            assert kept.execute("SELECT word FROM notes").fetchall() == [("kept",)]
    with closing(sqlite3.connect(database)) as now:
        assert now.execute("SELECT version_num FROM alembic_version").fetchall() == [("0005",)]
        assert now.execute("SELECT count(*) FROM launches").fetchall() == [(0,)]


@pytest.mark.parametrize("command", ["run", "upgrade-db"])
def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path, command: str) -> None:
    database = tmp_path / "replay-state" / "replay.sqlite"
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as newer, newer:
        newer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        newer.execute("INSERT INTO alembic_version VALUES ('of-another-time')")
    refused = replay(command, folder=tmp_path, **SERVICE)
    assert refused.returncode == 1
    assert f"The database sqlite:///{database} is at revision of-another-time" in refused.stderr
    assert "made by a newer version of Replay. Install that one." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(database.parent.glob("*.backup"))


def test_the_password_of_a_database_is_not_printed(tmp_path: Path) -> None:
    done = replay("upgrade-db", "--db", "postgresql//someone:secret-word@db/replay", folder=tmp_path)
    assert done.returncode == 1
    assert "db_url" in done.stderr
    assert "secret-word" not in done.stdout + done.stderr
    assert shown_url("postgresql://someone:secret-word@db/replay") == "postgresql://someone:***@db/replay"


def test_a_service_that_no_hub_manages_says_what_is_missing(tmp_path: Path) -> None:
    done = replay("run", folder=tmp_path)
    assert done.returncode == 1
    assert "JUPYTERHUB_API_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    done = replay("explode", folder=tmp_path)
    assert done.returncode == 1
    assert "run, upgrade-db" in done.stderr


@pytest.mark.parametrize(
    ("settings", "listens"),
    [({}, "https://hub.example.org"), ({"REPLAY_BIND_URL": "http://127.0.0.1:8000"}, "http://127.0.0.1:8000")],
    ids=["by-itself", "behind-a-tls-proxy"],
)
def test_the_reference_configuration_may_listen_elsewhere_than_where_people_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], listens: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    for name in [name for name in os.environ if name.startswith("REPLAY_")]:
        monkeypatch.delenv(name)
    named = {
        "REPLAY_OIDC_CLIENT_ID": "hub",
        "REPLAY_OIDC_CLIENT_SECRET_FILE": str(secret),
        "REPLAY_STATE_DIR": str(tmp_path / "state"),
        "REPLAY_URL": "https://hub.example.org",
    }
    for name, value in (named | settings).items():
        monkeypatch.setenv(name, value)
    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    assert config.JupyterHub.bind_url == listens
    assert config.EGICheckinAuthenticator.oauth_callback_url == "https://hub.example.org/hub/oauth_callback"
    assert config.ReplayBuildService.public_url == "https://hub.example.org"


@pytest.mark.parametrize("missing", ["REPLAY_OIDC_CLIENT_SECRET_FILE", "REPLAY_OIDC_CLIENT_ID"])
def test_the_reference_configuration_says_what_it_cannot_do_without(tmp_path: Path, missing: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    settings = {"REPLAY_OIDC_CLIENT_ID": "hub", "REPLAY_OIDC_CLIENT_SECRET_FILE": str(secret)}
    del settings[missing]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "OAUTH"))}
    done = subprocess.run(
        [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "jupyterhub_config.py")],
        cwd=tmp_path,
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert missing in done.stderr


@pytest.mark.parametrize("name", ["cookie_secret", "service_token"])
def test_a_service_whose_secret_was_left_empty_does_not_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "replay-state").mkdir()
    secret = tmp_path / "replay-state" / name
    secret.touch()
    ended = replay("run", folder=tmp_path, **SERVICE)
    assert ended.returncode == 1
    assert f"{secret} does not hold a secret of 64 hexadecimal digits." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert secret.read_bytes() == b""
