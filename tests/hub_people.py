"""People of a hub without a hub: JupyterHub's own users in a database of their own, logged in at the stand-in for Check-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyterhub import orm, roles
from jupyterhub.crypto import CryptKeeper
from jupyterhub.user import User

from demo.checkin import CheckinStandIn
from demo.people import Person
from replay_auth import EGICheckinAuthenticator
from replay_auth.notes import Notes
from replay_auth.stored import HubAuthStates
from tests.checkin_application import CALLBACK, Application

VO = "vo.notebooks.egi.eu"
KEY = b"k" * 32


def hub_database(path: Path | None = None) -> Any:
    """A session of a hub's database, in memory or in a file that another one may have open, too."""
    # One key for all of a test run: the keeper is a singleton of the process.
    CryptKeeper.instance().keys = [KEY]
    database = orm.new_session_factory(f"sqlite:///{path}" if path else "sqlite:///:memory:")()
    for role in roles.get_default_roles():
        roles.create_role(database, role)
    if not database.query(orm.OAuthClient).filter_by(identifier="jupyterhub").count():
        database.add(orm.OAuthClient(identifier="jupyterhub"))
        database.commit()
    return database


async def hub_user(database: Any, name: str, state: Mapping[str, Any] | None, *, admin: bool = False) -> User:
    """Somebody with that auth state; who is there already gets it, as by a login."""
    found = orm.User.find(database, name)
    if found is None:
        found = orm.User(name=name, admin=admin)
        database.add(found)
        database.commit()
        roles.assign_default_roles(database, found)
    user = User(found, {}, database)
    await user.save_auth_state(None if state is None else dict(state))
    return user


def authenticator_at(checkin: CheckinStandIn, **settings: Any) -> EGICheckinAuthenticator:
    """The hub's, for `Application`'s client."""
    settings = {"permitted_vos": {VO: ""}, **settings}
    return EGICheckinAuthenticator(issuer=checkin.issuer, client_id="app", client_secret="secret", **settings)


def checkin_for_applications() -> CheckinStandIn:
    """A stand-in whose addresses can fail each by itself; not started."""
    return CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=[CALLBACK], separate_ports=True)


def logged_in_state(checkin: CheckinStandIn, ours: EGICheckinAuthenticator, person: Person) -> dict[str, Any]:
    """The auth state of a login just now."""
    application = Application(checkin)
    tokens = application.log_in(person)
    return ours.build_auth_state_dict(tokens, application.userinfo(tokens["access_token"]).json())


async def state_of(user: User) -> dict[str, Any]:
    """As it is in the database."""
    return dict((await HubAuthStates().read(user)).state or {})


async def notes_of(user: User) -> Notes:
    return Notes.of(await state_of(user))


async def note(user: User, **changes: Any) -> None:
    """Change notes as time, or another process, would have."""
    stored = await HubAuthStates().read(user)
    changed = await HubAuthStates().change(user, stored, lambda state: replace(Notes.of(state), **changes).into(state))
    assert changed is not None
