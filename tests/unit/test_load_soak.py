"""What the soak makes of its looks: growth is found, and noise is not taken for it."""

import random

from tests.load.soak import Look, Watched

CALM = {"descriptors": 40.0, "tasks": 30.0, "pool": 1.0}


def watched(mib: float = 0.0, **rises: float) -> Watched:
    """Twenty minutes in which so much is gained in an hour, with some noise on it; in the first half far more."""
    chance, looks = random.Random(7), []
    for number in range(241):
        at = number * 5.0
        held = {what: value + rises.get(what, 0.0) * at / 3600 + chance.uniform(0, 1) for what, value in CALM.items()}
        warming = min(at, 600) * 0.05
        looks.append(Look(at, 100 + warming + mib * at / 3600 + chance.uniform(-0.2, 0.2), held))
    return Watched({}, {"messaging": looks})


def test_the_slope_is_of_the_second_half() -> None:
    for gained in (0.0, 3.0, 12.0):
        assert abs(watched(gained).mib_per_hour()["messaging"] - gained) < 1.0


def test_what_rises_is_named() -> None:
    assert watched().drifting() == {}
    assert set(watched(descriptors=60).drifting()) == {"messaging descriptors"}
    assert set(watched(tasks=300, pool=30).drifting()) == {"messaging tasks", "messaging pool"}
