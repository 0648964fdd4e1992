"""How much of the shared queue one sender and one workspace may take: messages a second, and places in it.

All of it is this process's own: with more replicas a sender who spreads over them has as many times the rate.
"""

import time
from collections.abc import Callable

from services.chassis.errors import LimitReached, Overloaded

BURST_SECONDS = 10
"""Who was silent for so long may send as much at once as they might have sent meanwhile."""
MOST_BUCKETS = 20_000
SWEEP_NS = 100_000_000
SECOND_NS = 1_000_000_000


class Buckets:
    """Token buckets, one for each key. What is remembered of one is the instant at which it will be full again.

    A bucket that is full is forgotten, which changes nothing. One that is not never is: nobody gets a fresh one by
    sending under many other names, and if all of them are in use, who is not among them has to wait.
    """

    def __init__(self, rate: int, *, limit: str, most: int = MOST_BUCKETS) -> None:
        """`rate` is tokens a second, `limit` the limit's name in the README's table."""
        self._limit, self._rate, self._most = limit, rate, most
        self._token_ns = max(SECOND_NS // rate, 1)
        # From the tokens, not the seconds: rounding must not change how many make a burst.
        self._burst_ns = rate * BURST_SECONDS * self._token_ns
        self._full_at: dict[str, int] = {}
        self._next_sweep_at = 0

    def require(self, key: str, now: int) -> None:
        """Raises unless the key's bucket holds a token: LimitReached, or Overloaded without room for a bucket."""
        full_at = self._full_at.get(key)
        if full_at is None:
            if len(self._full_at) >= self._most:
                self._sweep(now)
        elif (wait_ns := full_at - now + self._token_ns - self._burst_ns) > 0:
            raise LimitReached(self._limit, most=self._rate, retry_after_seconds=wait_ns / SECOND_NS)

    def take(self, key: str, now: int) -> None:
        """Takes a token out."""
        full_at = self._full_at.get(key, now)
        self._full_at[key] = (full_at if full_at > now else now) + self._token_ns

    def give_back(self, key: str) -> None:
        """Puts a token back."""
        full_at = self._full_at.get(key)
        if full_at is not None:
            self._full_at[key] = full_at - self._token_ns

    def _sweep(self, now: int) -> None:
        # It reads the whole table, so it must not happen at each message because few buckets could be forgotten.
        if now >= self._next_sweep_at:
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
            self._next_sweep_at = now + SWEEP_NS if len(self._full_at) > self._most // 2 else now
        if len(self._full_at) >= self._most:
            raise Overloaded(retry_after_seconds=SWEEP_NS / SECOND_NS)


class Rates:
    """What may be sent now. `clock` gives monotonic nanoseconds."""

    def __init__(self, *, of_sender: int, of_workspace: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._senders = Buckets(of_sender, limit="messages_per_second_of_sender")
        self._workspaces = Buckets(of_workspace, limit="messages_per_second_of_workspace")
        self._clock = clock

    def charge(self, *, workspace_id: str, user_id: str) -> None:
        """Counts a message against its sender and its workspace, or, if either has had enough, against neither.

        A sender is one in all workspaces together: whether they are members of those that they name is asked later, so
        made-up ones would be as many buckets to draw from. Errors: LimitReached, Overloaded.
        """
        now = self._clock()
        self._senders.require(user_id, now)
        self._workspaces.require(workspace_id, now)
        self._senders.take(user_id, now)
        self._workspaces.take(workspace_id, now)

    def spare_workspace(self, workspace_id: str) -> None:
        """Takes a message off a workspace's account whose sender was none of its members: else strangers used it up."""
        self._workspaces.give_back(workspace_id)


class Places:
    """Who holds how many places of a queue: no workspace more than `most`, so that the others find some free."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, int] = {}

    def require(self, workspace_id: str) -> None:
        """Overloaded if a workspace holds as many as it may."""
        if self._held.get(workspace_id, 0) >= self._most:
            raise Overloaded("Too many messages of this workspace are waiting; come back later.")

    def take(self, workspace_id: str) -> None:
        """Takes one place."""
        self._held[workspace_id] = self._held.get(workspace_id, 0) + 1

    def leave(self, workspace_id: str) -> None:
        """Leaves one."""
        held = self._held[workspace_id] - 1
        if held:
            self._held[workspace_id] = held
        else:
            del self._held[workspace_id]
