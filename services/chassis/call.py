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
    """Whoever is signed in; empty in a service account's call."""
    session_id: str = ""
    """The session, or the service account's key."""
    service_account_id: str = ""
    workspace_ids: frozenset[str] = frozenset()
    """The workspaces that the service account is bound to; empty if it is bound to none."""

    @property
    def caller_id(self) -> str:
        """The user, or the service account."""
        return self.user_id or self.service_account_id

    def remaining(self) -> float:
        """Seconds left; negative once the time is over."""
        return self.deadline - time.monotonic()


CURRENT: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that this task answers; LookupError outside of one (flushes and background tasks)."""
    return CURRENT.get()
