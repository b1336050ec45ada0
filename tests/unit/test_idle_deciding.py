"""For how long nobody has used a session: the rule, over all that can be known."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_spawner.idle.deciding import Known, Reading, cull_every, idle_time, rest, warning_time

pytestmark = pytest.mark.one_hub_version


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


HOUR = minutes(60)


def known(reading: Reading | None, *, age: float = 300, traffic: float | None = 0, **more: timedelta) -> Known:
    return Known(minutes(age), None if traffic is None else minutes(traffic), reading, **more)


@pytest.mark.parametrize(
    ("what", "idle"),
    [
        (known(Reading(is_busy=True, kernels=(minutes(200),)), traffic=200), 0),
        (known(Reading(kernels=(minutes(70), minutes(65)))), 65),  # though a forgotten page asks all the time
        (known(Reading(terminals=(minutes(61),))), 61),
        (known(Reading(kernels=(minutes(90),), terminals=(minutes(30),))), 30),
        (known(Reading(kernels=(minutes(90),), saved=(minutes(5), minutes(50)))), 5),
        (known(Reading(kernels=(minutes(90),), person=minutes(2))), 2),
        (known(Reading(kernels=(minutes(90),)), kept=minutes(4)), 4),
        (known(Reading(kernels=(minutes(90),)), remembered=minutes(55)), 55),
        (known(Reading(kernels=(minutes(90),)), age=20), 20),
        (known(Reading(), traffic=12), 12),  # RStudio, Shiny
        (known(Reading(), traffic=None), 300),
        (known(Reading(person=minutes(80))), 80),  # a forgotten JupyterLab without a kernel
        (known(Reading(person=minutes(9000)), traffic=3), 3),  # it told of an earlier session in the same home
        (known(Reading(kernels=(minutes(90),), has_apps=True), traffic=1), 1),  # RStudio beside an idle kernel
        (known(None, traffic=14), 14),
        (known(None, traffic=140, remembered=minutes(20)), 20),
        (known(None, traffic=None), 300),
    ],
)
def test_it_is_known_when_a_session_was_last_used(what: Known, idle: float) -> None:
    assert idle_time(what) == minutes(idle)


@pytest.mark.parametrize(
    ("limit", "warning", "every"),
    [(3600, 600, 120), (86400, 600, 120), (600, 300, 60), (60, 30, 6), (6, 3, 1), (1, 0.5, 1)],
)
def test_people_are_warned_ten_minutes_before_where_there_are_so_many(limit: float, warning: float, every: int) -> None:
    assert warning_time(timedelta(seconds=limit)).total_seconds() == warning
    assert cull_every(timedelta(seconds=limit)) == every


ages = st.timedeltas(timedelta(), timedelta(days=400))


@given(ages, st.timedeltas(timedelta(seconds=1), timedelta(days=30)))
def test_nobody_is_warned_late_because_their_session_was_not_looked_at(idle: timedelta, limit: timedelta) -> None:
    unseen = rest(idle, limit)
    assert unseen == timedelta() or idle + unseen <= limit - warning_time(limit)
    assert unseen <= limit / 4, "what is remembered of a server that falls silent is never old"


@given(
    st.builds(
        Known,
        ages,
        st.none() | ages,
        st.none()
        | st.builds(Reading, st.booleans(), *[st.tuples() | st.tuples(ages)] * 3, st.none() | ages, st.booleans()),
        st.none() | ages,
        st.none() | ages,
    )
)
def test_no_session_was_unused_for_longer_than_it_runs(what: Known) -> None:
    assert timedelta() <= idle_time(what) <= what.age
