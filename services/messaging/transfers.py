"""How many files may be on their way at once: each takes memory as long as it lasts, however slow its other end is."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.chassis.errors import Overloaded
from services.messaging.errors import TooManyStreams

MOST = 128
MOST_OF_USER = 16


class Transfers:
    """The uploads and downloads of one process."""

    def __init__(self) -> None:
        self._of_user: Counter[str] = Counter()

    @contextmanager
    def place(self, user_id: str) -> Iterator[None]:
        """Counts one in and out. TOO_MANY_STREAMS, OVERLOADED."""
        if self._of_user[user_id] >= MOST_OF_USER:
            raise TooManyStreams
        if self._of_user.total() >= MOST:
            raise Overloaded("As many files are on their way as this server takes; come back later.")
        self._of_user[user_id] += 1
        try:
            yield
        finally:
            self._of_user[user_id] -= 1
            if not self._of_user[user_id]:
                del self._of_user[user_id]
