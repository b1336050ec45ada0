"""What must not log anybody in, over HTTP: each is refused, told plainly, and logged with the number that the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, IdTokenFlaw, ReleasedClaims
from demo.people import ADA, BORIS, NOTEBOOKS_MEMBER, PEOPLE, Person
from tests.login_fixtures import Hub, Visitor, provider_and_hub

pytestmark = pytest.mark.needs("proxy")

NOTEBOOKS = "vo.notebooks.egi.eu"
HOSTILE_VO = "<script>alert(1)</script>"
HOSTILE_PATH = "../../hub/admin"
MALLORY = Person(
    name='<img src=x onerror="alert(1)"> Mallory',
    email='"><script>alert(1)</script>@example.org',
    preferred_username="../admin",
    voperson_id="mallory0000@egi.eu",
    remark="has claims that are HTML and paths",
    entitlements=("urn:mace:egi.eu:group:%3Cb%3Evo%3C%2Fb%3E#aai.egi.eu", "urn:mace:egi.eu:group:..%2F..#aai.egi.eu"),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub"), (*PEOPLE, MALLORY)) as (checkin, hub):
        checkin.start()
        hub.start({NOTEBOOKS: "", HOSTILE_VO: "", HOSTILE_PATH: ""})
        yield checkin, hub


@pytest.fixture
def checkin(running: tuple[CheckinStandIn, Hub]) -> Iterator[CheckinStandIn]:
    yield running[0]
    running[0].controls.reset()


@pytest.fixture
def hub(running: tuple[CheckinStandIn, Hub]) -> Hub:
    return running[1]


@pytest.fixture
def visitor(hub: Hub) -> Iterator[Visitor]:
    with Visitor(hub) as somebody:
        yield somebody


def refused(page: httpx.Response, hub: Hub, visitor: Visitor, *, status: int, sentence: str, reason: str) -> None:
    """The page says so and shows a number; the number's line in the log says why; nobody is logged in."""
    assert page.status_code == status, page.text
    assert sentence in page.text
    assert "Traceback" not in page.text
    assert "script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    shown = re.search(r"this number: ([0-9a-f]{8})", page.text)
    assert shown
    hub.wait_for_log(shown[1])
    (line,) = [line for line in hub.log.splitlines() if shown[1] in line]
    assert re.search(reason, line), line
    assert visitor.open("/hub/home").url.path == "/hub/login"


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        (IdTokenFlaw.MISSING, "there is none"),
        (IdTokenFlaw.UNSIGNED, "algorithm is 'none'"),
        (IdTokenFlaw.FOREIGN_AUDIENCE, "[Aa]udience"),
        (IdTokenFlaw.MORE_AUDIENCES, "issued to 'another-client'"),
        (IdTokenFlaw.FOREIGN_ISSUER, "issuer"),
        (IdTokenFlaw.EXPIRED, "expired"),
        (IdTokenFlaw.NOT_YET, "not yet valid"),
        (IdTokenFlaw.NO_NONCE, "nonce is not that of this login"),
        (IdTokenFlaw.REPLAYED_NONCE, "nonce is not that of this login"),
        (IdTokenFlaw.BAD_SIGNATURE, "[Ss]ignature"),
        (IdTokenFlaw.UNKNOWN_KEY, "does not publish"),
        (IdTokenFlaw.HMAC_OF_PUBLIC_KEY, "algorithm is 'HS256'"),
        (IdTokenFlaw.FOREIGN_SUBJECT, "different subjects"),
    ],
)
def test_an_id_token_that_is_not_for_this_login_logs_nobody_in(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor, flaw: IdTokenFlaw, reason: str
) -> None:
    with Visitor(hub) as somebody_before:
        assert somebody_before.log_in(ADA).url.path == "/hub/home"
    checkin.settings.id_token_flaw = flaw
    page = visitor.log_in(ADA)
    sentence = "gave two answers about who you are" if "subjects" in reason else "does not prove who you are"
    refused(page, hub, visitor, status=403, sentence=sentence, reason=reason)
    checkin.settings.id_token_flaw = None
    assert visitor.follow(page, "Try again").url.path == "/hub/home", "the provider remembers who it was"


def test_userinfo_about_somebody_else_logs_nobody_in(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    checkin.settings.userinfo_subject = BORIS.voperson_id
    page = visitor.log_in(ADA)
    refused(page, hub, visitor, status=403, sentence="gave two answers about who you are", reason="different subjects")


def test_clocks_a_little_apart_keep_nobody_out(checkin: CheckinStandIn, visitor: Visitor) -> None:
    checkin.settings.clock_skew_seconds = 30
    assert visitor.log_in(ADA).url.path == "/hub/home"


def test_a_new_key_of_the_providers_is_read_once(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    visitor.log_in(ADA)
    checkin.rotate_key()
    checkin.controls.requests.clear()
    for _ in range(2):
        with Visitor(hub) as another:
            assert another.log_in(ADA).url.path == "/hub/home"
    assert checkin.controls.requests[Endpoint.CERTS] == 1


def test_keys_that_cannot_be_had_are_a_fault_and_no_refusal(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    checkin.rotate_key()
    checkin.fail(503, Endpoint.CERTS)
    page = visitor.log_in(ADA, "/hub/token")
    refused(page, hub, visitor, status=503, sentence="does not answer at the moment", reason="does not answer")
    assert page.headers["retry-after"] == "30"
    checkin.recover()
    assert visitor.follow(page, "Try again").url.path == "/hub/token"


# State


def callback_of(visitor: Visitor, person: Person) -> str:
    """Where the provider sends the browser back to, which has not gone there yet."""
    return visitor.choose(visitor.open("/hub/oauth_login?next=/hub/token"), person, stay=True).headers["location"]


NOT_BEGUN = "This login was not begun in this browser"


def test_an_answer_of_the_providers_works_once(hub: Hub, visitor: Visitor) -> None:
    callback = callback_of(visitor, ADA)
    assert visitor.open(callback).url.path == "/hub/token"
    visitor.log_out()
    refused(visitor.open(callback), hub, visitor, status=400, sentence=NOT_BEGUN, reason="missing from cookies")


def test_an_answer_for_another_browser_logs_nobody_in(hub: Hub, visitor: Visitor) -> None:
    with Visitor(hub) as another:
        callback = callback_of(another, BORIS)
    refused(visitor.open(callback), hub, visitor, status=400, sentence=NOT_BEGUN, reason="missing from cookies")
    visitor.open("/hub/oauth_login")
    refused(visitor.open(callback), hub, visitor, status=400, sentence=NOT_BEGUN, reason="state mismatch")


def test_a_strangers_code_in_ones_own_login_logs_nobody_in(hub: Hub, visitor: Visitor) -> None:
    with Visitor(hub) as another:
        strange = parse_qs(urlsplit(callback_of(another, BORIS)).query)["code"][0]
    own = parse_qs(urlsplit(callback_of(visitor, ADA)).query)["state"][0]
    page = visitor.open(f"/hub/oauth_callback?code={strange}&state={quote(own)}")
    refused(page, hub, visitor, status=502, sentence="did not accept this login", reason="it answered 400")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", NOT_BEGUN),
        ("?code=x", NOT_BEGUN),
        ("?state=x", NOT_BEGUN),
        ("?code=x&state=", NOT_BEGUN),
        ("?code=x&state=x", NOT_BEGUN),
        ("?code=x&state=%C3%A9", NOT_BEGUN),
        ("?code=x&state=W10=", NOT_BEGUN),
        ("?code=x&state=bnVsbA==", NOT_BEGUN),
        ("?error=access_denied&state=x", "EGI Check-in did not log you in"),
    ],
)
def test_an_address_that_is_no_answer_of_the_providers_is_a_clear_page(
    hub: Hub, visitor: Visitor, query: str, sentence: str
) -> None:
    visitor.open("/hub/oauth_login")
    page = visitor.open(f"/hub/oauth_callback{query}")
    refused(page, hub, visitor, status=400, sentence=sentence, reason="Login could not be finished")


def test_words_in_an_address_are_not_the_pages(hub: Hub, visitor: Visitor) -> None:
    page = visitor.open("/hub/oauth_callback?error=Call+0800&error_description=Your+account+is+%0Ablocked")
    assert not {"Call", "0800", "blocked"} & set(re.findall(r"\w+", page.text))
    refused(page, hub, visitor, status=400, sentence="did not log you in", reason=r"Call 0800.*Your account is")


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "/\t/evil.example/",
        "\x00//evil.example/",
        "https:evil.example",
        "javascript:alert(1)",
        "@evil.example/",
        "http://127.0.0.1:1/hub/home",
    ],
)
def test_a_login_never_leads_to_another_host(hub: Hub, visitor: Visitor, wanted: str) -> None:
    provider = visitor.open(f"/hub/oauth_login?next={quote(wanted, safe='')}")
    callback = visitor.choose(provider, ADA, stay=True).headers["location"]
    answer = visitor.open_without_following(callback)
    assert answer.status_code == 302
    location = answer.headers["location"]
    # As a browser would read it.
    leads_to = urlsplit(str(httpx.URL(callback).join(location)))
    assert f"{leads_to.scheme}://{leads_to.netloc}" == hub.url, location
    assert not location.replace("\\", "/").startswith("//")


# Claims


def test_thousands_of_entitlements_are_read_and_the_member_gets_in(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    others = [f"urn:mace:egi.eu:group:vo-{n}.example.org:role=member#aai.egi.eu" for n in range(2000)]
    checkin.set_entitlements(ADA, *others, NOTEBOOKS_MEMBER, *(f"urn:x:y:group:%zz{n}#z" for n in range(2000)))
    checkin.settings.released_claims = ReleasedClaims.BOTH
    assert visitor.log_in(ADA).url.path == "/hub/home"
    assert hub.user(ADA).json()["groups"] == [NOTEBOOKS]
    told = [line for line in hub.log.splitlines() if "count for nothing" in line]
    assert told
    assert len(told[-1]) < 5000


def test_claims_that_are_html_or_paths_are_text_and_no_groups(hub: Hub, visitor: Visitor) -> None:
    page = visitor.log_in(MALLORY)
    assert page.status_code == 403
    assert "<img" not in page.text
    assert "<script" not in page.text
    assert "&lt;img src=x onerror=" in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert hub.user(MALLORY).status_code == 404
    assert {group["name"] for group in hub.api("GET", "/groups").json()} <= {NOTEBOOKS}


def test_a_permitted_vo_may_be_called_anything(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    names = (HOSTILE_VO, HOSTILE_PATH)
    checkin.set_entitlements(ADA, *(f"urn:mace:egi.eu:group:{quote(name, safe='')}#aai.egi.eu" for name in names))
    assert visitor.log_in(ADA).url.path == "/hub/home"
    assert set(hub.user(ADA).json()["groups"]) == set(names)
    for name in names:
        assert hub.api("GET", f"/groups/{quote(name, safe='')}").json()["users"] == [ADA.voperson_id]
    assert HOSTILE_VO not in visitor.open("/hub/home").text


def test_the_log_holds_no_token(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    visitor.log_in(ADA)
    state = hub.user(ADA).json()["auth_state"]
    for secret in (state["access_token"], state["refresh_token"], state["id_token"], hub.client_secret):
        assert secret
        assert secret not in hub.log
