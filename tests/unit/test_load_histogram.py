"""The load generator's histogram: what it forgets must not change a verdict."""

import itertools
import pickle
import random

import pytest

from tests.load.histogram import Histogram, bucket_of, end_of


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def test_buckets_are_numbered_without_a_gap_by_rising_values() -> None:
    buckets = [bucket_of(value) for value in range(100_000)]

    assert buckets[0] == 0
    assert {after - before for before, after in itertools.pairwise(buckets)} == {0, 1}


def test_a_bucket_ends_where_the_next_begins() -> None:
    for value in [*range(5_000), 123_456_789, 10**12]:
        bucket = bucket_of(value)
        assert bucket_of(end_of(bucket)) == bucket
        assert bucket_of(end_of(bucket) + 1) == bucket + 1


def test_small_values_are_kept_exactly() -> None:
    assert [end_of(bucket_of(value)) for value in range(128)] == list(range(128))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_a_quantile_is_at_most_a_sixtieth_above_the_true_one_and_never_below(share: float) -> None:
    draw = random.Random(7)
    values = sorted(int(draw.lognormvariate(8, 1.5)) for _ in range(20_000))
    true = values[max(1, round(share * len(values))) - 1]

    found = filled(values).quantile(share)

    assert true <= found <= true * (1 + 1 / 60) + 1


def test_the_highest_quantile_is_the_highest_value_exactly() -> None:
    assert filled([3, 1_000_003, 77]).quantile(1.0) == 1_000_003


def test_one_late_value_in_a_hundred_is_seen_by_p99_9_but_not_by_p99() -> None:
    histogram = filled([10] * 99 + [5_000])

    assert histogram.quantile(0.99) == 10
    assert histogram.quantile(0.999) == 5_000


def test_values_counted_together_weigh_as_much_as_counted_one_by_one() -> None:
    together, alone = Histogram(), filled([40] * 30 + [9_000] * 10)
    together.record(40, 30)
    together.record(9_000, 10)

    assert together == alone


def test_two_histograms_add_up_to_that_of_all_values() -> None:
    draw = random.Random(11)
    first, second = ([draw.randrange(1 << 20) for _ in range(1_000)] for _ in range(2))
    whole = filled(first)

    whole.add(filled(second))

    assert whole == filled(first + second)
    assert whole.total == 2_000


def test_nothing_counted_gives_nought() -> None:
    assert Histogram().quantile(0.99) == 0
    assert Histogram().milliseconds()["max"] == 0


def test_a_negative_value_counts_as_nought() -> None:
    assert filled([-5]).quantile(1.0) == 0


def test_a_share_beyond_the_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="a share is from 0 to 1"):
        Histogram().quantile(99)


def test_quantiles_are_told_in_milliseconds() -> None:
    assert filled([1_500]).milliseconds()["p50"] == 1.5


def test_it_survives_the_way_between_two_processes() -> None:
    histogram = filled([1, 1_000, 1_000_000])

    assert pickle.loads(pickle.dumps(histogram)) == histogram
