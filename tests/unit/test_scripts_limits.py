"""How often scripts may ask, before any hub is asked."""

from __future__ import annotations

import asyncio

import pytest

from replay_auth.scripts import Places, TooMany, asking_address


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9, 192.0.2.1, 10.0.0.7"], "192.0.2.1"),
        (["10.0.0.7"], "10.0.0.7"),
        ([", 10.0.0.7"], "10.0.0.7"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::"),
        (["2001:db8:1:2:ffff::1"], "2001:db8:1:2::"),
        (["192.0.2.1, unknown"], "unknown"),
    ],
)
def test_an_address_is_what_the_hubs_own_proxies_say(forwarded: list[str], address: str) -> None:
    assert asking_address("10.0.0.1", forwarded, frozenset({"10.0.0.7"})) == address


async def test_so_many_have_a_place_some_wait_and_the_next_is_sent_away() -> None:
    places, going_on = Places(at_once=2, waiting=1), asyncio.Event()
    inside: list[int] = []

    async def ask(number: int) -> None:
        async with places.one():
            inside.append(number)
            await going_on.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(ask(number))
        await asyncio.sleep(0)
        assert inside == [0, 1]
        with pytest.raises(TooMany) as refused:
            await ask(3)
        assert refused.value.status_code == 503
        assert refused.value.headers["Retry-After"]
        going_on.set()
    assert inside == [0, 1, 2]
    await ask(4)


async def test_who_gives_up_leaves_their_place() -> None:
    places = Places(at_once=1, waiting=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), places.one():
            await asyncio.Event().wait()
    async with places.one():
        pass
