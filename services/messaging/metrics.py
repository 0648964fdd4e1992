"""What operators watch of messages: how soon they reach subscribers and searches, and what removes files."""

from guildhall.messaging.v1 import event_service_pb2 as pb
from prometheus_client import Counter, Gauge, Histogram

SIDE_LANES = Gauge("guildhall_side_lanes", "Conversations whose messages wait for a lock that somebody else holds.")
SUBSCRIPTIONS = Gauge(
    "guildhall_subscriptions", "Open Subscribe streams: live, or catching up by themselves.", ("state",)
)
SUBSCRIPTION_ENDS = Counter(
    "guildhall_subscription_ends", "Subscribe streams that this side ended, by reason.", ("reason",)
)
DELIVERY_LAG = Histogram(
    "guildhall_delivery_lag_seconds",
    "Seconds from a message's creation, by the database's clock, to its being written to a live stream, by this "
    "process's. Of each stream, at most one write a second is looked at.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
SEARCH_BEHIND = Gauge(
    "guildhall_search_behind_conversations", "Conversations with something that cannot be searched for yet."
)
SEARCH_LAG = Histogram(
    "guildhall_search_lag_seconds",
    "Seconds, at most, from a message to its being searchable: from the first that was not, where several came.",
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
UPLOADS_EXPIRED = Counter("guildhall_files_expired", "Files deleted because no message took them up in 24 hours.")
BLOBS_REMOVED = Counter(
    "guildhall_blobs_removed", "Files whose bytes were removed from the store: deleted ones, and orphans.", ("cause",)
)
for _cause in ("deleted", "orphaned"):
    BLOBS_REMOVED.labels(_cause)  # shown as 0 from the start, or the first has not risen for Prometheus


def reason_name(reason: pb.StreamEndReason.ValueType) -> str:
    """STREAM_END_REASON_SLOW is slow."""
    return pb.StreamEndReason.Name(reason).removeprefix("STREAM_END_REASON_").lower()


for _reason in pb.StreamEndReason.values()[1:]:
    SUBSCRIPTION_ENDS.labels(reason_name(_reason))
