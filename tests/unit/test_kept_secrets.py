"""A secret's file is whole or not there, and whatever else is in it stops the start with a sentence."""

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replay_build_service import kept_secrets
from replay_build_service.kept_secrets import UnusableSecret, kept_secret


def test_a_secret_is_made_once_and_for_its_account_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "token"
    with ThreadPoolExecutor(16) as threads:
        found = set(threads.map(kept_secret, [file] * 64))
    (secret,) = found
    assert (len(secret), file.read_text()) == (32, secret.hex())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["token"], "nothing else is left"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"ab", b"ab" * 31, b"ab" * 33, b"xy" * 32, b"\xff" * 64, b"ab " * 32, "٣".encode() * 64]
)
def test_what_is_no_secret_stops_the_start_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(UnusableSecret, match=re.escape(str(file))):
        kept_secret(file)
    assert file.read_bytes() == content


def test_an_admin_may_end_the_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("AB" * 32 + "\n")
    assert kept_secret(tmp_path / "token") == b"\xab" * 32


def test_a_disk_that_is_full_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_secrets.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        kept_secret(tmp_path / "token")
    assert os.listdir(tmp_path) == []
