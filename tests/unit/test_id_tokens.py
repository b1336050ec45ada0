"""Which ID tokens are believed. What a provider signs is signed here with real keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from replay_auth import id_tokens
from replay_auth.id_tokens import ALGORITHMS, IdTokens, SigningKeys, UnacceptableIdToken

pytestmark = pytest.mark.asyncio

ISSUER = "https://aai.example.org/realm"
KEY, STRANGERS_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
CURVE_KEY = ec.generate_private_key(ec.SECP256R1())


def published(key: Any = KEY, key_id: str | None = "a", **more: str) -> dict[str, Any]:
    algorithm: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    named = {} if key_id is None else {"kid": key_id}
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig", **named, **more}


def claims(**changes: object) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": ISSUER, "sub": "ada", "aud": "hub", "azp": "hub", "iat": now, "exp": now + 300, "nonce": "once"}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def signed(content: Mapping[str, object], key: Any = KEY, key_id: str | None = "a", algorithm: str = "RS256") -> str:
    return jwt.encode(dict(content), key, algorithm=algorithm, headers={} if key_id is None else {"kid": key_id})


class Published:
    """The provider's keys, and how often they were read."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys) or [published()]
        self.read = 0

    async def fetch(self) -> Mapping[str, object]:
        self.read += 1
        await asyncio.sleep(0)
        return {"keys": self.keys}


def reader(provider: Published | None = None, algorithms: tuple[str, ...] = ("RS256", "ES256")) -> IdTokens:
    keys = SigningKeys((provider or Published()).fetch)
    return IdTokens(keys, issuer=ISSUER, client_id="hub", algorithms=algorithms, leeway=60)


async def test_a_token_for_this_login_says_who_it_is() -> None:
    assert (await reader().verified(signed(claims()), nonce="once"))["sub"] == "ada"
    assert (await reader().verified(signed(claims(aud=["hub", "else"])), nonce="once"))["sub"] == "ada"
    assert (await reader().verified(signed(claims(azp=None)), nonce="once"))["sub"] == "ada"
    both = reader(Published(published(), published(CURVE_KEY, "c")))
    assert (await both.verified(signed(claims(), CURVE_KEY, "c", "ES256"), nonce="once"))["sub"] == "ada"


SOMEBODY_ELSES: list[tuple[dict[str, object], str]] = [
    ({"nonce": "twice"}, "nonce is not that of this login"),
    ({"nonce": None}, "nonce is not that of this login"),
    ({"nonce": ["once"]}, "nonce is not that of this login"),
    ({"nonce": "once\ud800"}, "nonce is not that of this login"),
    ({"iss": ISSUER + "/"}, "issuer"),
    ({"iss": None}, "iss"),
    ({"sub": None}, "sub"),
    ({"sub": 7}, "[Ss]ubject"),
    ({"aud": "else"}, "[Aa]udience"),
    ({"aud": ["else", "HUB"]}, "[Aa]udience"),
    ({"aud": None}, "aud"),
    ({"aud": {"hub": 1}}, "[Aa]udience|claim format"),
    ({"azp": "else"}, "issued to 'else'"),
    ({"aud": ["hub", "else"], "azp": None}, "for several applications"),
    ({"aud": ["hub", "else"], "azp": "else"}, "issued to 'else'"),
    ({"exp": int(time.time()) - 120}, "expired"),
    ({"exp": None}, "exp"),
    ({"exp": "soon"}, "exp|[Ee]xpiration"),
    ({"exp": float("inf")}, "not valid"),
    ({"iat": int(time.time()) + 36_000}, "not yet valid"),
    ({"iat": None}, "iat"),
]


# Named by numbers, since some hold the time.
@pytest.mark.parametrize(("changes", "reason"), SOMEBODY_ELSES, ids=range(len(SOMEBODY_ELSES)))
async def test_a_well_signed_token_of_somebody_elses_is_none(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UnacceptableIdToken, match=reason):
        await reader().verified(signed(claims(**changes)), nonce="once")


async def test_clocks_may_be_apart_by_so_much() -> None:
    now = int(time.time())
    for changes in ({"exp": now - 30}, {"iat": now + 30}):
        assert await reader().verified(signed(claims(**changes)), nonce="once")


def by_hand(header: Mapping[str, object], content: Mapping[str, object], secret: bytes | None) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(content).encode())}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), hashlib.sha256)) if secret else ''}"


PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (by_hand({"alg": "none"}, claims(), None), "algorithm is 'none'"),
        (by_hand({"alg": "None", "kid": "a"}, claims(), None), "algorithm is 'None'"),
        (by_hand({"alg": "HS256", "kid": "a"}, claims(), PEM), "algorithm is 'HS256'"),
        (by_hand({"alg": "HS256", "kid": "a"}, claims(), b"secret"), "algorithm is 'HS256'"),
        (by_hand({"alg": ["RS256"], "kid": "a"}, claims(), b"secret"), "algorithm|cannot be read"),
        (signed(claims(), STRANGERS_KEY), "[Ss]ignature"),
        (signed(claims(), algorithm="RS512"), "algorithm is 'RS512'"),
        (signed(claims(), CURVE_KEY, "a", "ES256"), "not valid"),
        (signed(claims())[:-6] + "AAAAAA", "[Ss]ignature"),
        (signed(claims()).rpartition(".")[0] + ".", "[Ss]ignature"),
        (signed(claims(), STRANGERS_KEY, "b"), "does not publish"),
        ("", "cannot be read"),
        ("a.b.c", "cannot be read"),
        (None, "there is none"),
        (7, "there is none"),
        ({"sub": "ada"}, "there is none"),
    ],
)
async def test_what_the_provider_did_not_sign_is_nothing(text: object, reason: str) -> None:
    with pytest.raises(UnacceptableIdToken, match=reason):
        await reader().verified(text, nonce="once")


async def test_no_setting_makes_a_token_without_a_private_keys_signature_good() -> None:
    lenient = reader(algorithms=("none", "HS256", "RS256"))
    for text in (by_hand({"alg": "none"}, claims(), None), by_hand({"alg": "HS256", "kid": "a"}, claims(), PEM)):
        with pytest.raises(UnacceptableIdToken, match="algorithm"):
            await lenient.verified(text, nonce="once")
    assert not {"none", "HS256", "HS384", "HS512"} & set(ALGORITHMS)


# Keys


async def test_keys_are_read_once_for_any_number_of_logins() -> None:
    provider = Published()
    tokens = reader(provider)
    await asyncio.gather(*(tokens.verified(signed(claims()), nonce="once") for _ in range(20)))
    assert provider.read == 1


async def test_keys_are_read_again_once_for_one_that_is_not_known() -> None:
    provider = Published()
    tokens = reader(provider)
    await tokens.verified(signed(claims()), nonce="once")
    provider.keys = [published(STRANGERS_KEY, "b")]
    await asyncio.gather(*(tokens.verified(signed(claims(), STRANGERS_KEY, "b"), nonce="once") for _ in range(5)))
    assert provider.read == 2
    with pytest.raises(UnacceptableIdToken, match="'a', which the provider does not publish"):
        await tokens.verified(signed(claims()), nonce="once")
    assert provider.read == 3


async def test_keys_are_not_believed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Published()
    tokens = reader(provider)
    await tokens.verified(signed(claims()), nonce="once")
    provider.keys = [published(STRANGERS_KEY, "b")]
    now = time.monotonic()
    monkeypatch.setattr(id_tokens.time, "monotonic", lambda: now + id_tokens.KEYS_SECONDS + 1)
    with pytest.raises(UnacceptableIdToken, match="does not publish"):
        await tokens.verified(signed(claims()), nonce="once")


async def test_a_reading_that_failed_is_not_remembered() -> None:
    provider = Published()
    answers = iter([ConnectionError("down")])

    async def fetch() -> Mapping[str, object]:
        for error in answers:
            raise error
        return await provider.fetch()

    tokens = IdTokens(SigningKeys(fetch), issuer=ISSUER, client_id="hub", algorithms=["RS256"], leeway=60)
    with pytest.raises(ConnectionError):
        await tokens.verified(signed(claims()), nonce="once")
    assert await tokens.verified(signed(claims()), nonce="once")


async def test_a_token_that_names_no_key_is_of_the_only_one() -> None:
    text = signed(claims(), key_id=None)
    assert await reader(Published(published(key_id=None))).verified(text, nonce="once")
    assert await reader().verified(text, nonce="once")
    with pytest.raises(UnacceptableIdToken, match="does not publish"):
        await reader(Published(published(), published(STRANGERS_KEY, "b"))).verified(text, nonce="once")


async def test_a_key_that_is_for_something_else_signs_nothing() -> None:
    with pytest.raises(UnacceptableIdToken, match="does not publish"):
        await reader(Published(published(use="enc"))).verified(signed(claims()), nonce="once")
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "a"}
    with pytest.raises(UnacceptableIdToken, match="does not publish"):
        await reader(Published(secret)).verified(signed(claims()), nonce="once")


@pytest.mark.parametrize("keys", [[], [{"kty": "moon"}], ["a"], None, {"kty": "RSA"}], ids=str)
async def test_keys_that_cannot_be_read_are_none(keys: Any) -> None:
    provider = Published()
    provider.keys = keys
    with pytest.raises(UnacceptableIdToken, match="the provider's keys cannot be read"):
        await reader(provider).verified(signed(claims()), nonce="once")
