"""Where requests may go: the list, the addresses, the moment of connecting."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.errors import BadLink, OriginRefused, ReplayError, SourceFault
from replay_build_service.outgoing import (
    Origin,
    OutgoingRules,
    Resolver,
    VettedOrigin,
    admit,
    is_public,
    resolve_host,
    vet,
)
from replay_build_service.outgoing_http import GuardedTransport, guarded_client


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.0.0.9", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("2606:4700:4700::1111", True),
        ("::", False),
        ("::1", False),
        ("::8.8.8.8", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:127.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b:1::10.0.0.1", False),
        ("100::1", False),
        ("2001::1", False),
        ("2001:db8::1", False),
        ("2002:808:808::1", True),
        ("2002:7f00:1::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("2606:4700:4700::1111%eth0", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


RULES = OutgoingRules(
    frozenset({"github.com", "*.example.org", "forge.example.net:8443", "Bücher.example"}),
    frozenset({"http://127.0.0.1:8080", "https://git.intern", "http://[::1]:9000/"}),
)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://github.com/o/r", "https://github.com:443"),
        ("HTTPS://GitHub.com.:443/o/r", "https://github.com:443"),
        ("https://a.example.org/", "https://a.example.org:443"),
        ("https://a.b.example.org/", "https://a.b.example.org:443"),
        ("https://forge.example.net:8443/r", "https://forge.example.net:8443"),
        ("https://bücher.example/r", "https://xn--bcher-kva.example:443"),
        ("http://127.0.0.1:8080/r.git", "http://127.0.0.1:8080"),
        ("https://git.intern:443/r", "https://git.intern:443"),
        ("http://[::1]:9000/r", "http://[::1]:9000"),
        ("http://[0:0:0:0:0:0:0:1]:9000/r", "http://[::1]:9000"),
    ],
)
def test_what_is_listed_is_admitted(url: str, origin: str) -> None:
    assert str(admit(url, RULES)) == origin


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://evil.example/r", "evil.example is not among"),
        ("https://example.org/", "example.org is not among"),
        ("https://notexample.org/", "notexample.org is not among"),
        ("https://github.com.evil.example/", "github.com.evil.example is not among"),
        ("https://github.com:8443/o/r", "github.com at port 8443 is not among"),
        ("https://forge.example.net/r", "forge.example.net is not among"),
        ("http://github.com/o/r", "https:// only"),
        ("http://github.com:443/o/r", "https:// only"),
        ("http://127.0.0.1:8081/r", "127.0.0.1 at port 8081 is not among"),
        ("https://127.0.0.1:8080/r", "127.0.0.1 at port 8080 is not among"),
        ("http://localhost:8080/r", "localhost at port 8080 is not among"),
        ("http://2130706433:8080/r", "is not among"),
        ("http://git.intern/r", "git.intern is not among"),
        ("https://169.254.169.254/latest", "169.254.169.254 is not among"),
        ("https://github.com@evil.example/", "user name or a password"),
        ("https://user:secret@github.com/o/r", "user name or a password"),
        ("ssh://git@github.com/o/r", "https:// only"),
        ("ext::sh -c touch% x", "not a URL"),
        ("ext::x", "https:// only"),
        ("file:///etc/passwd", "https:// only"),
        ("git://github.com/o/r", "https:// only"),
        ("--upload-pack=x", "https:// only"),
        ("https://github.com\\@evil.example/", "not a URL"),
        ("https://github.com\t/", "not a URL"),
        ("https://github.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https:///r", "no host"),
        ("https://a..b/", "no host"),
        ("https://-a.example.org/", "no host"),
        ("https://" + "a" * 10_000 + ".example.org/", "no host"),
    ],
)
def test_what_is_not_listed_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises((BadLink, OriginRefused)) as caught:
        admit(url, RULES)
    assert says in caught.value.sentence
    assert "secret" not in caught.value.sentence


def test_a_refusal_names_the_host_and_who_can_change_it() -> None:
    with pytest.raises(OriginRefused, match=r"forge\.example\.com .* administrator .* can add it"):
        admit("https://forge.example.com/r", RULES)


@given(st.one_of(st.text(), st.text().map(lambda text: "https://" + text)))
def test_any_text_is_an_origin_or_one_of_our_own_errors(text: str) -> None:
    try:
        origin = Origin.of_url(text)
    except ReplayError:
        return
    assert Origin.of_url(f"{origin}/") == origin


def test_rules_travel_as_json() -> None:
    rules = OutgoingRules(frozenset({"a.example"}), frozenset({"http://127.0.0.1:1"}), "http://proxy:3128", "/ca.pem")
    assert OutgoingRules.from_json(rules.to_json()) == rules
    assert OutgoingRules.from_json(OutgoingRules().to_json()) == OutgoingRules()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"allowed_hosts": 1}'])
def test_json_of_something_else_is_not_taken_for_rules(text: str) -> None:
    with pytest.raises(ValueError, match=r"no outgoing rules|Expecting value"):
        OutgoingRules.from_json(text)


@pytest.mark.parametrize("host", ["", "*", "*.", "a b", "https://github.com", "a.example:0", "a.example:x", "a/b"])
def test_an_entry_that_could_never_match_shows_at_once(host: str) -> None:
    with pytest.raises(ValueError, match=r"neither a host's name|no port"):
        OutgoingRules(frozenset({host}))


@pytest.mark.parametrize(
    "origin", ["", "127.0.0.1:80", "http://*", "ftp://a", "http://a/path", "http://u@a", "http://a:x"]
)
def test_an_exemption_is_exactly_one_origin(origin: str) -> None:
    with pytest.raises(ValueError, match=r"no origin|more than an origin"):
        OutgoingRules(exempt_origins=frozenset({origin}))


def answering(*addresses: str) -> Resolver:
    """A resolver for which every name means these addresses."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolver


async def test_a_vetted_origin_has_the_addresses_to_connect_to() -> None:
    vetted = await vet("https://github.com/o/r", RULES, resolver=answering("140.82.121.4", "2606:50c0::1"))
    assert vetted == VettedOrigin("https", "github.com", 443, ("140.82.121.4", "2606:50c0::1"))
    assert (await vet("http://127.0.0.1:8080/", RULES, resolver=answering())).addresses == ("127.0.0.1",)
    assert (await vet("https://git.intern/", RULES, resolver=answering("10.0.0.1"))).addresses == ("10.0.0.1",)


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("140.82.121.4", "127.0.0.1"), ("::ffff:169.254.169.254",)])
async def test_a_listed_name_that_leads_inside_is_refused(addresses: tuple[str, ...]) -> None:
    with pytest.raises(OriginRefused, match=r"github\.com leads to an address that is not public"):
        await vet("https://github.com/o/r", RULES, resolver=answering(*addresses))


async def test_a_name_that_does_not_resolve_is_a_fault_and_no_fact() -> None:
    with pytest.raises(SourceFault, match="no address"):
        await vet("https://github.com/o/r", RULES, resolver=answering())
    with pytest.raises(SourceFault, match=r"name\.invalid could not be resolved"):
        await resolve_host("name.invalid", 443)
    assert "127.0.0.1" in await resolve_host("localhost", 80)


async def test_with_a_proxy_names_are_the_proxys_to_resolve_but_hosts_are_still_listed() -> None:
    rules = OutgoingRules(RULES.allowed_hosts, RULES.exempt_origins, proxy="http://proxy.intern:3128")
    assert (await vet("https://github.com/o/r", rules, resolver=answering())).addresses == ()
    assert (await vet("https://git.intern/r", rules, resolver=answering("10.0.0.1"))).addresses == ("10.0.0.1",)
    with pytest.raises(OriginRefused):
        await vet("https://evil.example/", rules, resolver=answering("8.8.8.8"))


# ---- over real sockets


@dataclass
class Site:
    """A small web server that remembers what it was asked."""

    port: int
    redirect_to: str | None = None
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list[tuple[str, dict[str, str], bytes]])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_site() -> Generator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200 if site.redirect_to is None else 302)
            if site.redirect_to is not None:
                self.send_header("Location", site.redirect_to)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        site = Site(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as started:
        yield started


@pytest.fixture
def other_site() -> Iterator[Site]:
    with running_site() as started:
        yield started


def exempting(*origins: str) -> OutgoingRules:
    return OutgoingRules(exempt_origins=frozenset(origins))


async def test_an_exempt_origin_is_asked_and_its_answer_read(site: Site) -> None:
    async with guarded_client(exempting(site.url)) as client:
        answer = await client.post(f"{site.url}/a?b=c", content=b"body")
        again = await client.get(f"{site.url}/again")
    assert (answer.status_code, answer.text, again.text) == (200, "hello", "hello")
    assert [(path, body) for path, _, body in site.requests] == [("/a?b=c", b"body"), ("/again", b"")]


async def test_an_origin_that_is_not_listed_is_not_even_connected_to(site: Site) -> None:
    async with guarded_client(exempting()) as client:
        with pytest.raises(OriginRefused):
            await client.get(site.url)
    assert site.requests == []


async def test_a_name_that_changes_its_meaning_after_the_check_is_caught_when_connecting(site: Site) -> None:
    meanings = iter([["140.82.121.4"], ["127.0.0.1"]])

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(meanings)

    rules = OutgoingRules(frozenset({f"name.example.org:{site.port}"}))
    url = f"https://name.example.org:{site.port}/"
    await vet(url, rules, resolver=resolver)
    async with guarded_client(rules, resolver=resolver) as client:
        with pytest.raises(OriginRefused, match="not public"):
            await client.get(url)
    assert site.requests == []


async def test_the_next_address_is_tried_where_one_does_not_answer(site: Site) -> None:
    rules = exempting(f"http://name.example.org:{site.port}")
    async with guarded_client(rules, resolver=answering("::1", "127.0.0.1")) as client:
        answer = await client.get(f"http://name.example.org:{site.port}/")
    assert answer.text == "hello"
    assert site.requests[0][1]["host"] == f"name.example.org:{site.port}"


async def test_no_redirect_is_followed_unless_asked_for(site: Site) -> None:
    site.redirect_to = f"{site.url}/elsewhere"
    async with guarded_client(exempting(site.url)) as client:
        assert (await client.get(site.url)).status_code == 302
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "target", ["unlisted", "http://169.254.169.254/latest", "file:///etc/passwd", "https://github.com/"]
)
async def test_each_hop_of_a_redirect_is_looked_at(site: Site, other_site: Site, target: str) -> None:
    site.redirect_to = other_site.url if target == "unlisted" else target
    async with guarded_client(exempting(site.url), resolver=answering("10.0.0.1")) as client:
        with pytest.raises((OriginRefused, httpx.UnsupportedProtocol)):
            await client.get(site.url, follow_redirects=True)
    assert other_site.requests == []


async def test_credentials_do_not_cross_to_another_origin(site: Site, other_site: Site) -> None:
    site.redirect_to = other_site.url
    async with guarded_client(exempting(site.url, other_site.url)) as client:
        await client.get(site.url, headers={"Authorization": "Bearer secret"}, follow_redirects=True)
    assert site.requests[0][1]["authorization"] == "Bearer secret"
    assert "authorization" not in other_site.requests[0][1]


async def test_the_environments_proxies_and_passwords_are_not_used(
    site: Site, other_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", other_site.url)
    monkeypatch.setenv("ALL_PROXY", other_site.url)
    async with guarded_client(exempting(site.url)) as client:
        assert (await client.get(site.url)).text == "hello"
    assert other_site.requests == []


async def test_the_administrators_proxy_is_used_for_all_but_exempt_origins(site: Site, other_site: Site) -> None:
    rules = OutgoingRules(frozenset({"name.example.org"}), frozenset({site.url}), proxy=other_site.url)
    async with guarded_client(rules) as client:
        assert (await client.get(site.url)).text == "hello"
        with pytest.raises(httpx.TransportError):  # the stand-in does not know CONNECT
            await client.get("https://name.example.org/")
    assert [path for path, _, _ in site.requests] == ["/"]


async def test_faults_of_the_connection_have_httpxs_names() -> None:
    with running_site() as gone:
        url = gone.url
    async with httpx.AsyncClient(transport=GuardedTransport(exempting(url))) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)
