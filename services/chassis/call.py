"""The call being answered: who makes it, by when, and under which request id."""

import time
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    """One call. The empty string stands for what it does not have."""

    rpc: str
    request_id: str
    peer: str
    """The service in the caller's certificate, "gateway" for everybody outside."""
    deadline: float
    """On time.monotonic()'s clock."""
    client_address: str = ""
    user_agent: str = ""
    token: str = ""
    """The bearer token as it came, already verified; forwarded on calls made for this one user."""
    user_id: str = ""
    session_id: str = ""

    def remaining(self) -> float:
        """Seconds left; negative once the time is over."""
        return self.deadline - time.monotonic()


CURRENT: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that this task answers; LookupError outside of one (flushes and background tasks)."""
    return CURRENT.get()
