"""What operators watch of guests: that the worker keeps up with the clock. Nobody's rights depend on it."""

from prometheus_client import Counter, Gauge
from sqlalchemy import text

EXPIRIES = Counter(
    "guildhall_guest_expiries", "Guests who were locked or ended because their time was over.", ("state",)
)
for _state in ("locked", "ended"):
    EXPIRIES.labels(_state)  # shown as 0 from the start, or the first has not risen for Prometheus
OVERDUE = Gauge("guildhall_guests_overdue", "Guests whose time is over, and whose rows do not say so yet.")
OLDEST = Gauge("guildhall_guests_overdue_oldest_seconds", "Seconds since the time of the first of them was over.")

DUE = text("""
    SELECT count(*) AS overdue, coalesce(extract(epoch FROM statement_timestamp() - min(over_at)), 0) AS oldest
    FROM (
        SELECT expire_at AS over_at FROM guests WHERE state = 'ACTIVE' AND expire_at <= statement_timestamp()
        UNION ALL
        SELECT grace_end_at FROM guests WHERE state = 'LOCKED' AND grace_end_at <= statement_timestamp()
    ) due
""")
OF_DUE = {"overdue": OVERDUE, "oldest": OLDEST}
