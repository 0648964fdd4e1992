"""What is stored, as numbers that change with every row that is written: for calls that must leave nothing behind."""

from typing import Any, ClassVar

from tests.support.deliveries import until
from tests.support.suite import Suite

SERVICES = ("identity", "membership", "guest", "messaging")
NOT_COUNTED = frozenset(
    {
        # Refused attempts are logged, and counted.
        "identity.security_events",
        "membership.activities",
        "membership.activity_people",
        "membership.activity_details",
        "membership.workspace_heads",
        "guest.guest_invite_attempts",
        # When a session was used is written once a minute, for whatever it was used.
        "identity.sessions",
        "identity.service_keys",
        # What was said before is prepared for searching meanwhile.
        "messaging.search_entries",
        "messaging.search_positions",
    }
)
# xmin is the transaction that wrote a row last, so an update that changes nothing counts as well.
ROWS = "SELECT '{name}', count(*), coalesce(sum(t.xmin::text::bigint), 0) FROM {schema}.{name} t"
CONTENTS = "SELECT '{name}', count(*), coalesce(sum(hashtext(t::text)::bigint), 0) FROM {schema}.{name} t"
SOME_ROWS = {
    # Claims move a row's due time. What is for the worker stays while there is none, and mails are among it.
    "outbox": "SELECT 'outbox', count(*), 0 FROM {schema}.outbox WHERE target = 'worker'",
    # A refusal's activity comes from another service.
    "inbox": "SELECT 'inbox', count(*), 0 FROM {schema}.inbox WHERE kind <> 'activity_recorded'",
}
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name <> 'alembic_version'"
# Not what has failed so often, within six seconds, that other tests must have made what nobody can take.
WAITING = """
    SELECT CAST(id AS text) FROM outbox WHERE target <> 'worker' AND NOT dead AND attempts < 5
    UNION ALL SELECT CAST(event_id AS text) FROM inbox WHERE applied_at IS NULL AND NOT dead AND attempts < 5
"""

WAITING_OF = {
    # Who takes part in a group's conversations is written down after the event about the group.
    "messaging": f"{WAITING} UNION ALL SELECT group_id || ' ' || generation FROM group_syncs WHERE synced < generation"
}

MOST_PATIENCE = 3


class Digests:
    """Of all four schemas. The workers must be stopped: what they do later has been decided before."""

    _left: ClassVar[set[str]] = set()
    """What other tests have made that waits without being tried: once it has been waited for, it is not again."""

    def __init__(self, suite: Suite, *, counting: str = ROWS) -> None:
        """CONTENTS does not count what was written again as it was."""
        self._suite = suite
        self._counting = counting
        self._patience = MOST_PATIENCE
        self._statements = {service: self._statement(service) for service in SERVICES}

    def _statement(self, service: str) -> str:
        names = sorted(name for (name,) in self._suite.rows(f"{service}_owner", TABLES, [service]))
        assert {"outbox", "inbox"} <= set(names)
        counted = [name for name in names if f"{service}.{name}" not in NOT_COUNTED]
        parts = [SOME_ROWS.get(name, self._counting).format(name=name, schema=service) for name in counted]
        return " UNION ALL ".join(parts)

    def _waiting(self) -> set[str]:
        return {
            waiting
            for service in SERVICES
            for (waiting,) in self._suite.rows(service, WAITING_OF.get(service, WAITING), None)
        }

    def _is_quiet(self) -> bool:
        return self._waiting() <= Digests._left

    async def take(self) -> dict[str, Any]:
        """Once all that was going on between the services has ended."""
        try:
            # Twice: what one service was found to have handed on may wait in one that was asked before it.
            await until(lambda: self._is_quiet() and self._is_quiet(), seconds=30)
        except TimeoutError:
            if self._patience == 0:
                raise
            self._patience -= 1
            Digests._left |= self._waiting()
        return {
            f"{service}.{name}": numbers
            for service in SERVICES
            for name, *numbers in self._suite.rows(f"{service}_owner", self._statements[service], None)
        }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The tables that something was written to."""
    return sorted(name for name in before | after if before.get(name) != after.get(name))
