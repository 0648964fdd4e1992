"""Counts values in buckets that grow with the value, as HdrHistogram does: any range, to 1.6 %, in little memory."""

from dataclasses import dataclass, field

_BITS = 7
"""Values below 2^7 have a bucket each; above, every power of two is cut into 2^6."""
_HALF = 1 << (_BITS - 1)


@dataclass
class Histogram:
    """Whole numbers from 0, here microseconds. Pickles small; two can be added up."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    highest: int = 0

    def record(self, value: int, count: int = 1) -> None:
        """Count a value, or several that are alike. A negative one (a clock set back) counts as 0."""
        value = max(value, 0)
        bucket = bucket_of(value)
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += count
        self.highest = max(self.highest, value)

    def add(self, other: "Histogram") -> None:
        """Count everything that another one has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total
        self.highest = max(self.highest, other.highest)

    def quantile(self, share: float) -> int:
        """The value that `share` of all do not exceed, rounded up to its bucket's end; 0 if nothing was counted."""
        if not 0 <= share <= 1:
            raise ValueError(f"a share is from 0 to 1, not {share}")
        wanted = max(share * self.total, 1)
        passed = 0
        for bucket in sorted(self.counts):
            passed += self.counts[bucket]
            # The sum of floats may end a hair below the total.
            if passed >= wanted - 1e-9 * self.total:
                return min(end_of(bucket), self.highest)
        return 0

    def milliseconds(self) -> dict[str, float]:
        """The usual quantiles, of microseconds, in milliseconds."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        return {name: round(self.quantile(share) / 1000, 3) for name, share in shares.items()}


def bucket_of(value: int) -> int:
    """The bucket of a value; buckets are numbered without a gap, by rising values."""
    shift = value.bit_length() - _BITS
    return value if shift <= 0 else shift * _HALF + (value >> shift)


def end_of(bucket: int) -> int:
    """The highest value of a bucket."""
    if bucket < 2 * _HALF:
        return bucket
    shift = bucket // _HALF - 1
    return ((bucket - shift * _HALF + 1) << shift) - 1
