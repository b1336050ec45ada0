"""``/controls`` of the stand-in for Check-in: a page for the demo, and the same as JSON for tests in other processes.

    curl -H 'Content-Type: application/json' -d '{"people": {"…@egi.eu": {"standing": "suspended"}}}' …/controls

What a control means is `demo.checkin_controls`. Whoever reaches this address may use it, so it is on loopback alone, and
a page of another site cannot post to it.
"""

from __future__ import annotations

from dataclasses import asdict
from ipaddress import ip_address
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from flask import Flask, abort, redirect, render_template, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demo.checkin_controls import (
    Controls,
    Endpoint,
    Entitlements,
    Failing,
    Fault,
    IdTokenFlaw,
    ReleasedClaims,
    Standing,
)
from demo.people import Person

CONTROLS = "/controls"


class Controlled(Protocol):
    """The stand-in, as far as it can be changed from here."""

    controls: Controls
    people: tuple[Person, ...]

    def fail(self, fault: Fault, *endpoints: Endpoint) -> None: ...
    def recover(self, *endpoints: Endpoint) -> None: ...
    def end_logins(self, person: Person, *, refresh_tokens_only: bool = False) -> None: ...
    def rotate_key(self) -> None: ...
    def give_access_token(
        self, person: Person, *, client_id: str | None, audience: tuple[str, ...], seconds: int
    ) -> str: ...


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PersonChange(_Strict):
    """What is left out stays."""

    entitlements: tuple[str, ...] | None = None
    eduperson_entitlement: tuple[str, ...] | None = None
    standing: Standing | None = None
    end_logins: bool = False


class SettingsChange(_Strict):
    """The fields of `demo.checkin_controls.Settings`; what is left out stays."""

    access_token_seconds: Annotated[int, Field(ge=1)] | None = None
    rotates_refresh_tokens: bool | None = None
    exchanges_tokens: bool | None = None
    token_answer: dict[str, Any] | None = None
    revoking_ends_logins: bool | None = None
    lists_revocation: bool | None = None
    clock_skew_seconds: int | None = None
    released_claims: ReleasedClaims | None = None
    id_token_flaw: IdTokenFlaw | None = None
    userinfo_subject: str | None = None


class Change(_Strict):
    """The body of a POST: what is to be otherwise from now on."""

    reset: bool = False
    """Before all else."""
    people: dict[str, PersonChange] = {}
    """By ``voperson_id``."""
    settings: SettingsChange = SettingsChange()
    faults: dict[Endpoint, Annotated[int, Field(ge=400, le=599)] | Failing | None] = {}
    """None lifts a fault."""
    rotate_key: bool = False


class TokenWish(_Strict):
    """An access token as an application of a person's has one."""

    person: str
    """``voperson_id``."""
    client_id: str | None = None
    audience: tuple[str, ...] = ()
    seconds: Annotated[int, Field(ge=1)] = 3600


def add_control_pages(app: Flask, stand_in: Controlled) -> None:
    """The page, its form, and the JSON of both."""

    @app.before_request
    def keep_others_out() -> None:
        if not request.path.startswith(CONTROLS):
            return
        # A name that somebody else's DNS leads to this machine is not one of its own.
        host = urlsplit(f"//{request.host}").hostname or ""
        own = host == "localhost" or _is_loopback(host)
        if not own or request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            abort(403)

    @app.get(CONTROLS)
    def show() -> Any:
        state = _state(stand_in)
        if request.accept_mimetypes.best == "application/json":
            return state
        choices = {"standings": list(Standing), "claims": list(ReleasedClaims), "endpoints": list(Endpoint)}
        return render_template("controls.html", state=state, people=stand_in.people, **choices)

    @app.post(CONTROLS)
    def change() -> Any:
        try:
            wanted = Change.model_validate(request.get_json() if request.is_json else _form())
            _apply(stand_in, wanted)
        except (ValidationError, ValueError, LookupError) as error:
            return {"error": str(error)}, 400
        return _state(stand_in) if request.is_json else redirect(CONTROLS)

    @app.post(f"{CONTROLS}/access-tokens")
    def give() -> Any:
        try:
            wish = TokenWish.model_validate(request.get_json())
            person = _person(stand_in, wish.person)
        except (ValidationError, LookupError) as error:
            return {"error": str(error)}, 400
        text = stand_in.give_access_token(
            person, client_id=wish.client_id, audience=wish.audience, seconds=wish.seconds
        )
        return {"access_token": text}


def _apply(stand_in: Controlled, change: Change) -> None:
    people = {_person(stand_in, name): wanted for name, wanted in change.people.items()}
    controls = stand_in.controls
    if change.reset:
        stand_in.recover()
        controls.reset()
    for person, wanted in people.items():
        has = controls.entitlements_of(person)
        old, new = wanted.eduperson_entitlement, wanted.entitlements
        if old is not None or new is not None:
            either = Entitlements(
                has.eduperson_entitlement if old is None else old, has.entitlements if new is None else new
            )
            controls.set_entitlements(person, either)
        if wanted.standing:
            controls.set_standing(person, wanted.standing)
        if wanted.end_logins:
            stand_in.end_logins(person)
    for name in change.settings.model_fields_set:
        value = getattr(change.settings, name)
        if value is None and name not in {"id_token_flaw", "userinfo_subject", "token_answer"}:
            raise ValueError(f"{name} has to have a value.")
        setattr(controls.settings, name, value)
    for endpoint, fault in change.faults.items():
        if fault is None:
            stand_in.recover(endpoint)
        else:
            stand_in.fail(fault, endpoint)
    if change.rotate_key:
        stand_in.rotate_key()


def _form() -> dict[str, Any]:
    """The page's forms as the JSON that they stand for."""
    form = request.form
    if "reset" in form:
        return {"reset": True}
    if "person" in form:
        person = {
            "standing": form["standing"],
            "entitlements": _lines(form["entitlements"]),
            "eduperson_entitlement": _lines(form["eduperson_entitlement"]),
        }
        return {"people": {form["person"]: person}}
    faults = {name: form[name] or None for name in Endpoint if name in form}
    numbers = {name: value for name, value in faults.items() if value and value.isdigit()}
    settings = {
        "released_claims": form["released_claims"],
        "access_token_seconds": form["access_token_seconds"],
        "rotates_refresh_tokens": "rotates_refresh_tokens" in form,
    }
    return {"settings": settings, "faults": {**faults, **{name: int(value) for name, value in numbers.items()}}}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _state(stand_in: Controlled) -> dict[str, Any]:
    controls = stand_in.controls
    return {
        "people": {
            person.voperson_id: {
                "name": person.name,
                "standing": controls.standing_of(person),
                **asdict(controls.entitlements_of(person)),
            }
            for person in stand_in.people
        },
        "settings": asdict(controls.settings),
        "faults": {endpoint: fault for endpoint in Endpoint if (fault := controls.fault_of(endpoint)) is not None},
        "requests": {endpoint: controls.requests[endpoint] for endpoint in Endpoint},
    }


def _person(stand_in: Controlled, voperson_id: str) -> Person:
    for person in stand_in.people:
        if person.voperson_id == voperson_id:
            return person
    raise LookupError(f"Nobody here has the voperson_id {voperson_id!r}.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
