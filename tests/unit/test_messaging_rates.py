"""Token buckets, to the token and the nanosecond, on a clock of the test's own; and the places of a queue."""

from collections.abc import Callable

import pytest
from google.rpc import error_details_pb2

from services.chassis.errors import Fault, LimitReached, Overloaded, status_of
from services.messaging.rates import SECOND_NS, SWEEP_NS, Buckets, Places, Rates


class Clock:
    """Stands still unless it is moved. Not at 0: time.monotonic_ns() begins anywhere."""

    def __init__(self) -> None:
        self.now = 12_345_678_901

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves it on."""
        self.now += round(seconds * SECOND_NS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new_rates(clock: Clock, *, of_sender: int = 1_000_000, of_workspace: int = 1_000_000) -> Rates:
    return Rates(of_sender=of_sender, of_workspace=of_workspace, clock=clock)


def sent_at_once(rates: Rates, user_id: str = "ada", workspace_id: str = "w", *, most: int = 100_000) -> int:
    """How many messages are taken before one is refused."""
    for count in range(most):
        if refusal(lambda: rates.charge(workspace_id=workspace_id, user_id=user_id)) is not None:
            return count
    return most


def refusal(call: Callable[[], None]) -> Fault | None:
    """What a call raised."""
    try:
        call()
    except Fault as fault:
        return fault
    return None


@pytest.mark.parametrize("rate", [1, 3, 7, 100, 2000])
def test_ten_seconds_worth_may_come_at_once_and_then_as_much_as_the_rate_gives(clock: Clock, rate: int) -> None:
    rates = new_rates(clock, of_sender=rate)

    assert sent_at_once(rates) == 10 * rate
    clock.advance(1)
    assert sent_at_once(rates) == rate
    clock.advance(3600)
    assert sent_at_once(rates) == 10 * rate


def test_a_token_is_there_when_the_refusal_said_and_not_a_nanosecond_sooner(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=4)
    assert sent_at_once(rates) == 40
    clock.advance(0.1)

    reached = refusal(lambda: rates.charge(workspace_id="w", user_id="ada"))

    assert isinstance(reached, LimitReached)
    assert reached.metadata == {"limit": "messages_per_second_of_sender", "most": "4"}
    assert reached.retry_after_seconds == 0.15
    clock.advance(0.15)
    clock.now -= 1
    assert sent_at_once(rates) == 0
    clock.now += 1
    assert sent_at_once(rates) == 1


def test_a_sender_who_has_had_enough_stops_nobody_else(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=2)
    assert sent_at_once(rates, "ada") == 20
    assert sent_at_once(rates, "bob") == 20


def test_a_sender_is_one_in_all_workspaces_together(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=2)
    taken = sum(sent_at_once(rates, "ada", f"made up {number}", most=5) for number in range(100))
    assert taken == 20


def test_a_workspace_that_has_had_enough_stops_no_other_workspace(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=3, of_workspace=4)
    assert [sent_at_once(rates, user_id, "w") for user_id in ("ada", "bob", "cy")] == [30, 10, 0]

    reached = refusal(lambda: rates.charge(workspace_id="w", user_id="cy"))

    assert isinstance(reached, LimitReached)
    assert reached.metadata == {"limit": "messages_per_second_of_workspace", "most": "4"}
    assert reached.retry_after_seconds == 0.25
    assert sent_at_once(rates, "cy", "elsewhere") == 30


def test_what_is_refused_for_one_reason_is_not_counted_for_the_other(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=2, of_workspace=3)
    assert sent_at_once(rates, "ada") == 20
    for _ in range(100):
        # Else one sender could use up what their workspace has, by being refused.
        assert sent_at_once(rates, "ada") == 0
    assert sent_at_once(rates, "bob") == 10
    for _ in range(100):
        assert sent_at_once(rates, "cy", "w") == 0
    assert sent_at_once(rates, "cy", "elsewhere") == 20


def test_what_a_stranger_sent_is_taken_off_the_workspaces_account_and_not_off_theirs(clock: Clock) -> None:
    rates = new_rates(clock, of_sender=5, of_workspace=2)
    for _ in range(20):
        rates.charge(workspace_id="w", user_id="eve")
    for _ in range(20):
        rates.spare_workspace("w")

    assert sent_at_once(rates, "ada", "w") == 20
    assert sent_at_once(rates, "eve", "elsewhere") == 20
    assert sent_at_once(rates, "eve", "a third one") == 10


def test_sparing_an_idle_workspace_gives_it_nothing_to_save_up(clock: Clock) -> None:
    rates = new_rates(clock, of_workspace=2)
    rates.charge(workspace_id="w", user_id="eve")
    clock.advance(60)
    rates.spare_workspace("w")
    rates.spare_workspace("unheard of")
    assert sent_at_once(rates, "ada", "w") == 20


def test_nobody_escapes_by_filling_the_table_with_others(clock: Clock) -> None:
    buckets = Buckets(1, limit="made_up", most=100)
    for _ in range(10):
        take(buckets, "ada", clock)
    for number in range(1000):
        refusal(lambda number=number: take(buckets, f"other {number}", clock))

    assert isinstance(refusal(lambda: take(buckets, "ada", clock)), LimitReached)
    clock.advance(2)
    for _ in range(2):
        take(buckets, "ada", clock)
    assert isinstance(refusal(lambda: take(buckets, "ada", clock)), LimitReached)


def test_where_no_bucket_is_left_a_newcomer_waits_until_one_is_full(clock: Clock) -> None:
    buckets = Buckets(1, limit="made_up", most=3)
    for key in ("ada", "bob", "cy"):
        take(buckets, key, clock)

    no_room = refusal(lambda: take(buckets, "dee", clock))
    known = refusal(lambda: take(buckets, "bob", clock))

    assert isinstance(no_room, Overloaded)
    assert no_room.retry_after_seconds == SWEEP_NS / SECOND_NS
    assert known is None
    clock.advance(1)
    for key in ("dee", "eve"):
        take(buckets, key, clock)
    assert isinstance(refusal(lambda: take(buckets, "fay", clock)), Overloaded)


def test_full_buckets_make_room_without_anybody_waiting(clock: Clock) -> None:
    buckets = Buckets(1000, limit="made_up", most=100)
    for number in range(10_000):
        take(buckets, f"passer-by {number}", clock)
        clock.advance(0.001)


def take(buckets: Buckets, key: str, clock: Clock) -> None:
    buckets.require(key, clock.now)
    buckets.take(key, clock.now)


def test_the_delay_on_the_wire_is_never_too_short() -> None:
    for milliseconds in (0.000001, 1001, 250):
        reached = LimitReached("made_up", most=1, retry_after_seconds=milliseconds / 1000)
        status = status_of(reached, domain="guildhall.messaging", request_id="")
        info = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(info) for detail in status.details)
        assert info.retry_delay.ToNanoseconds() >= milliseconds * 1_000_000


def test_a_workspace_holds_so_many_places_and_others_find_theirs() -> None:
    places = Places(2)
    for _ in range(2):
        places.require("w")
        places.take("w")

    assert isinstance(refusal(lambda: places.require("w")), Overloaded)
    places.require("elsewhere")
    places.leave("w")
    places.require("w")


def test_nothing_is_remembered_of_a_workspace_without_places() -> None:
    places = Places(2)
    for number in range(100):
        places.take(f"{number}")
        places.leave(f"{number}")
    assert not places._held
