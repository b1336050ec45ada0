"""``replay-auth rename-users``: the users of a hub that was keyed on ``preferred_username`` get the name of their ``voperson_id``.

``preferred_username`` is not unique at Check-in, so that an account may have been used by several people; a hub does not know
that. A user that is renamed keeps groups, tokens, roles and stored state: by a stored login alone nobody gets an account that may
more than others. This is a command beside the hub: it speaks to the hub's REST API and changes nothing before ``--apply`` is given.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from replay_auth.errors import text_claim

SCOPES = ("admin:users", "read:servers")
"""What the token has to be good for. The first has ``admin:auth_state`` in it."""

_PAGE = 100
_PAGES = "application/jupyterhub-pagination+json"

_EPILOG = f"""
The token is read from --token-file or JUPYTERHUB_API_TOKEN. It needs the scopes {", ".join(SCOPES)};
to rename admins it has to be an admin's. The stored state is there for whoever has logged in since
enable_auth_state is on, and the hub reads it with its JUPYTERHUB_CRYPT_KEY.

By the stored state an account goes to whoever logged in last under its name. Admins, and users with roles of their
own, are renamed by a CSV file only.

A CSV file has a line "name,voperson_id" above all others.

Exit status: 0 where nobody is left to rename, or in a dry run nobody would be; 1 where somebody is; 2 where it could
not be done at all.
"""


class CannotRename(Exception):
    """Why nothing can be done, and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the hub."""

    name: str
    has_servers: bool
    """Running, or on the way to it or from it."""
    is_privileged: bool = False
    """An admin, or with roles beyond everybody's."""


class Outcome(StrEnum):
    RENAME = "rename"
    RENAMED = "renamed"
    DONE = "done before"
    SKIPPED = "skipped"
    REFUSED = "refused"


LEFT = frozenset({Outcome.SKIPPED, Outcome.REFUSED})


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one user."""

    name: str
    outcome: Outcome
    new_name: str = ""
    reason: str = ""

    def __str__(self) -> str:
        arrow = f" → {self.new_name}" if self.new_name else ""
        return f"{self.outcome:<11} {self.name}{arrow}{f': {self.reason}' if self.reason else ''}"


def plan(accounts: Iterable[Account], wanted: Mapping[str, str | Step]) -> list[Step]:
    """What to do with each account, by name. ``wanted`` has the new name of each, or the step where there is none.

    Two accounts never become one: where several would get the same name, or somebody has it, all of them are refused.
    """
    by_name = {account.name: account for account in accounts}
    new_names = {name: new.lower() for name, new in wanted.items() if isinstance(new, str) and name in by_name}
    steps = [step for step in wanted.values() if isinstance(step, Step)]
    steps += [_step(by_name[name], new_names, by_name.keys()) for name in new_names]
    return sorted(steps, key=lambda step: step.name)


def _step(account: Account, new_names: Mapping[str, str], taken: Collection[str]) -> Step:
    name, new = account.name, new_names[account.name]
    if new == name:
        return Step(name, Outcome.DONE)
    if others := sorted(other for other, theirs in new_names.items() if theirs == new and other != name):
        reason = (
            f"{', '.join(others)} would get the same name; decide which account stays, and delete or rename the rest"
        )
        return Step(name, Outcome.REFUSED, new, reason)
    if new in taken:
        reason = "a user of that name exists; decide which account stays, and delete or rename the other"
        return Step(name, Outcome.REFUSED, new, reason)
    if account.has_servers:
        return Step(name, Outcome.SKIPPED, new, "a server is running; stop it and run this again")
    return Step(name, Outcome.RENAME, new)


class HubUsers:
    """The users of a hub, by its REST API. All methods raise `CannotRename` where the hub does not answer or refuses."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"token {token}"}
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/", headers=headers, timeout=30)

    def __enter__(self) -> HubUsers:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def accounts(self) -> Iterator[Account]:
        """All of them."""
        offset: int | None = 0
        while offset is not None:
            page = self._json("GET", f"users?limit={_PAGE}&offset={offset}", headers={"Accept": _PAGES})
            for user in page["items"]:
                yield _account(user)
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None

    def account(self, name: str) -> Account:
        return _account(self._json("GET", _path(name)))

    def auth_state(self, name: str) -> Mapping[str, object]:
        """What the hub keeps about a login; nothing where it has none."""
        user = self._json("GET", _path(name))
        return cast("Mapping[str, object]", user.get("auth_state") or {})

    def rename(self, name: str, new_name: str) -> str:
        """Why the hub refuses it; nothing where it is done."""
        answer = self._request("PATCH", _path(name), json={"name": new_name})
        if answer.is_success:
            return ""
        return f"the hub answered {answer.status_code}: {_message(answer)}"

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._request(method, path, **options)
        if answer.status_code in {401, 403}:
            raise CannotRename(f"The hub refuses this token. It needs the scopes {', '.join(SCOPES)}.")
        try:
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise CannotRename(f"{answer.url} answered {answer.status_code}: {_message(answer)}") from error
        if not isinstance(found, dict):
            raise CannotRename(f"{answer.url} is no address of a hub's API.")
        return cast("dict[str, Any]", found)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise CannotRename(f"The hub does not answer at {self._client.base_url}: {error}") from error


def _path(name: str) -> str:
    return f"users/{quote(name, safe='@')}"


def _account(user: Mapping[str, Any]) -> Account:
    if "servers" not in user:
        raise CannotRename(f"This token may not see whether servers run. It needs the scopes {', '.join(SCOPES)}.")
    is_privileged = bool(user.get("admin")) or bool(set(user.get("roles") or ()) - {"user"})
    return Account(user["name"], bool(user["servers"] or user.get("pending")), is_privileged)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def names_in_state(hub: HubUsers, accounts: Iterable[Account], state_key: str) -> dict[str, str | Step]:
    """The new name of each account by what the last login under it released.

    That login may have been another person's of the same ``preferred_username``: rights beyond everybody's are not given by it.
    """
    found: dict[str, str | Step] = {}
    for account in accounts:
        name = account.name
        state = hub.auth_state(name).get(state_key)
        claims = cast("Mapping[str, object]", state) if isinstance(state, dict) else {}
        new, old = text_claim(claims, "voperson_id"), text_claim(claims, "preferred_username")
        if new and name == new.lower():
            found[name] = new
        elif new and name == old.lower() and account.is_privileged:
            reason = (
                "is an admin or has roles of their own, and another person of this preferred_username may have logged in "
                "last; find out whose account it is and name them in a CSV file"
            )
            found[name] = Step(name, Outcome.REFUSED, new, reason)
        elif new and name == old.lower():
            found[name] = new
        elif new:
            reason = "is not the preferred_username of whoever logged in last, so it is not known whose account this is"
            found[name] = Step(name, Outcome.REFUSED, new, reason)
        else:
            found[name] = Step(
                name, Outcome.SKIPPED, reason="the hub has no record of a voperson_id; name it in a CSV file"
            )
    return found


def names_in_file(path: Path) -> dict[str, str | Step]:
    """The new name of each account by a CSV file. Raises `CannotRename` for one that cannot be meant."""
    found: dict[str, str | Step] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"name", "voperson_id"} <= set(rows.fieldnames):
                raise CannotRename(f"{path} has to begin with the line: name,voperson_id")
            for row in rows:
                name, new = ((row[column] or "").strip() for column in ("name", "voperson_id"))
                if not name or not new or name in found:
                    raise CannotRename(f"{path}, line {rows.line_num}: a name is missing, or was there before.")
                found[name] = new
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CannotRename(f"{path} cannot be read: {error}") from error
    return found


def carry_out(hub: HubUsers, step: Step) -> Step:
    """Rename, unless a server was started since it was planned."""
    if hub.account(step.name).has_servers:
        return Step(step.name, Outcome.SKIPPED, step.new_name, "a server was started; stop it and run this again")
    refusal = hub.rename(step.name, step.new_name)
    outcome = Outcome.REFUSED if refusal else Outcome.RENAMED
    return Step(step.name, outcome, step.new_name, refusal)


def _rename_users(options: argparse.Namespace) -> int:
    with HubUsers(options.hub, _token(options.token_file)) as hub:
        accounts = list(hub.accounts())
        wanted = names_in_file(options.csv) if options.csv else names_in_state(hub, accounts, options.state_key)
        for name in sorted(wanted.keys() - {account.name for account in accounts}):
            print(f"There is no user {name}.", file=sys.stderr)
        steps: list[Step] = []
        for step in plan(accounts, wanted):
            done = carry_out(hub, step) if options.apply and step.outcome is Outcome.RENAME else step
            print(done, flush=True)  # one after the other: an end in between leaves a record of what was done
            steps.append(done)
    counts = Counter(step.outcome for step in steps)
    print(f"\n{', '.join(f'{counts[outcome]} {outcome}' for outcome in Outcome if counts[outcome]) or 'No users'}.")
    if counts[Outcome.RENAME] and not options.csv:
        print(
            "Each account goes to whoever logged in last under its name, with all its tokens. Where several people may have "
            "shared a preferred_username, find out whose it is and use --csv."
        )
    if counts[Outcome.RENAME]:
        print("Nothing was changed. Run it again with --apply to rename.")
    return 1 if LEFT & counts.keys() else 0


def _token(file: Path | None) -> str:
    try:
        token = file.read_text().strip() if file else os.environ.get("JUPYTERHUB_API_TOKEN", "")
    except OSError as error:
        raise CannotRename(f"{file} cannot be read: {error}") from error
    if not token:
        raise CannotRename(
            "A token of the hub is needed: in a file named with --token-file, or in JUPYTERHUB_API_TOKEN."
        )
    return token


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``replay-auth``."""
    parser = argparse.ArgumentParser(prog="replay-auth", description="Replay's login, for those who run a hub.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    rename = commands.add_parser(
        "rename-users",
        help="from preferred_username to voperson_id",
        description="Rename the users of a hub from their preferred_username to their voperson_id. Without --apply nothing is changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rename.add_argument("--hub", default="http://127.0.0.1:8081/hub/api", help="the hub's API (default: %(default)s)")
    rename.add_argument("--token-file", type=Path, help="holds a token of the hub")
    rename.add_argument("--csv", type=Path, help="the new names; otherwise they are taken from the stored state")
    rename.add_argument(
        "--state-key", default="oauth_user", help="where the claims are in the stored state (default: %(default)s)"
    )
    rename.add_argument("--apply", action="store_true", help="do it")
    rename.set_defaults(run=_rename_users)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except CannotRename as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
