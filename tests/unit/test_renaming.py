"""Which users are renamed, and which are not, before a hub is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_auth.renaming import Account, CannotRename, Outcome, Step, main, names_in_file, plan


def account(name: str, *, has_servers: bool = False) -> Account:
    return Account(name, has_servers)


def test_who_can_be_renamed_is() -> None:
    assert plan([account("ada"), account("b@egi.eu")], {"ada": "A@egi.eu", "b@egi.eu": "B@egi.eu"}) == [
        Step("ada", Outcome.RENAME, "a@egi.eu"),
        Step("b@egi.eu", Outcome.DONE),
    ]


def test_two_accounts_never_become_one() -> None:
    taken, first, second = plan(
        [account("ada"), account("a@egi.eu"), account("bo"), account("boris")],
        {"ada": "A@EGI.eu", "bo": "b@egi.eu", "boris": "B@egi.eu"},
    )
    assert (taken.outcome, first.outcome, second.outcome) == (Outcome.REFUSED,) * 3
    assert "a user of that name exists" in taken.reason
    assert "boris would get the same name" in first.reason
    assert "bo would get the same name" in second.reason


def test_who_has_a_server_is_left_and_who_is_not_named_is_not_mentioned() -> None:
    (step,) = plan([account("ada", has_servers=True), account("eva")], {"ada": "a@egi.eu", "gone": "g@egi.eu"})
    assert step == Step("ada", Outcome.SKIPPED, "a@egi.eu", "a server is running; stop it and run this again")
    assert str(step) == "skipped     ada → a@egi.eu: a server is running; stop it and run this again"


_NAMES = st.sampled_from(["a", "b", "c", "d", "A", "B"])


@given(names=st.sets(_NAMES.map(str.lower)), wanted=st.dictionaries(_NAMES, _NAMES))
def test_renaming_in_any_order_leaves_as_many_users(names: set[str], wanted: dict[str, str]) -> None:
    steps = [step for step in plan(map(account, names), wanted) if step.outcome is Outcome.RENAME]
    new_names = [step.new_name for step in steps]
    assert len(set(new_names)) == len(new_names)
    assert not set(new_names) & names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has to begin with the line: name,voperson_id"),
        ("ada,a@egi.eu\n", "has to begin with the line: name,voperson_id"),
        ("name,voperson_id\nada,\n", "line 2: a name is missing"),
        ("name,voperson_id\nada\n", "line 2: a name is missing"),
        ("name,voperson_id\nada,a\nada,b\n", "line 3: a name is missing, or was there before"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_meant_renames_nobody(tmp_path: Path, text: str | bytes | None, sentence: str) -> None:
    file = tmp_path / "names.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CannotRename, match=sentence):
        names_in_file(file)


def test_a_file_may_have_more_columns_and_a_spreadsheets_mark(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text('voperson_id,remark,name\r\n a@egi.eu ,"x, y",ada\r\n', encoding="utf-8-sig")
    assert names_in_file(file) == {"ada": "a@egi.eu"}


def test_without_a_token_or_a_hub_it_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    assert main(["rename-users"]) == 2
    assert "--token-file" in capsys.readouterr().err
    assert main(["rename-users", "--token-file", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    assert main(["rename-users", "--hub", "http://127.0.0.1:1/hub/api"]) == 2
    assert "The hub does not answer at http://127.0.0.1:1/hub/api/" in capsys.readouterr().err
