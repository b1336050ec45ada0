"""The documentation's ways to use the access token, as they stand there: each run as its own program against userinfo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.checkin import CheckinStandIn
from demo.people import ADA
from tests.checkin_application import CALLBACK, Application
from tests.requirements import ROOT

pytestmark = pytest.mark.hub_independent

USERINFO = "https://aai.egi.eu/auth/realms/egi/protocol/openid-connect/userinfo"
INTERPRETERS = {"python": [sys.executable], "r": ["Rscript"], "sh": ["sh", "-e"]}


def snippets() -> dict[str, str]:
    text = (ROOT / "docs" / "token.md").read_text()
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_each_snippet_is_run() -> None:
    assert snippets().keys() == INTERPRETERS.keys()


@pytest.mark.parametrize(
    "language",
    ["python", pytest.param("r", marks=pytest.mark.needs("r")), pytest.param("sh", marks=pytest.mark.needs("curl"))],
)
def test_a_snippet_reads_the_file_and_asks_with_the_token(language: str, tmp_path: Path) -> None:
    code = snippets()[language]
    assert code.count(USERINFO) == 1
    file = tmp_path / "access_token"
    program = tmp_path / f"snippet.{language}"

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*INTERPRETERS[language], str(program)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REPLAY_ACCESS_TOKEN_FILE": str(file)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=[CALLBACK]) as checkin:
        application = Application(checkin)
        with application.http:
            scope = "openid voperson_id eduperson_entitlement entitlements"
            token = application.token(code=application.code(ADA, scope=scope)).json()["access_token"]
            program.write_text(code.replace(USERINFO, f"{checkin.issuer}/protocol/openid-connect/userinfo"))

            file.write_text(token)
            done = run()
            assert done.returncode == 0, done.stderr
            assert ADA.voperson_id in done.stdout
            assert token not in done.stdout + done.stderr

            file.write_text("expired")
            refused = run()
            assert refused.returncode != 0
            assert "401" in refused.stdout + refused.stderr
