"""Refusals in words for who sits before the terminal: what happened, and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from guildhall.client import FileChangedError, GuildhallError, NotFound, NotSignedIn, TooMuch, Unavailable

from deploy.remote.settings import Gateway
from deploy.stack.settings import StackError


class SignInFirstError(StackError):
    """Nobody is signed in, or not any more."""

    exit_code = 3


class NoAnswerError(StackError):
    """The gateway does not answer, or is full: later it may."""

    exit_code = 4


_ADVICE = {
    "INVALID_CREDENTIALS": "E-mail and password do not match. Try again, or guildhall login --by-mail",
    "EMAIL_UNVERIFIED": "The address has not been proven yet: open the link in the newest mail to it",
    "TOKEN_INVALID": "That token is not good, or not any more. Ask for another mail: guildhall login --by-mail",
    "GUEST_LOCKED": "Your time as a guest is over, so you can only read. Ask who invited you for more time",
    "PERMISSION_DENIED": "Your role does not allow it. Ask an admin of the workspace",
}


@contextmanager
def in_words(gateway: Gateway) -> Iterator[None]:
    """Turns a refusal into a `StackError` with its exit code: 3 to sign in first, 4 to come back later, else 1."""
    try:
        yield
    except FileChangedError as error:
        raise StackError(f"{error}; run the command again") from None
    except GuildhallError as error:
        raise _error(error, gateway) from None


def _error(error: GuildhallError, gateway: Gateway) -> StackError:
    if error.reason in _ADVICE:
        kind = SignInFirstError if isinstance(error, NotSignedIn) else StackError
        return kind(f"{_ADVICE[error.reason]} ({error.reason}).")
    if isinstance(error, NotSignedIn):
        return SignInFirstError(f"your session at {gateway.url} has ended ({error.reason}); guildhall login")
    if isinstance(error, TooMuch):
        seconds = error.retry_after_seconds
        again = f"; try again in {seconds:.0f} s" if seconds else ""
        limit = f" of {error.metadata['limit']}" if "limit" in error.metadata else ""
        return NoAnswerError(f"too much at once{limit} ({error.reason}): {error.message}{again}")
    if isinstance(error, Unavailable):
        return NoAnswerError(
            f"no answer from {gateway.url} ({error.message or error.code.name}); is it the right gateway (--gateway),"
            " and does it run (guildhall status)?"
        )
    if isinstance(error, NotFound):
        return StackError("there is no such thing, or you may not see it (NOT_FOUND)")
    return StackError(str(error))
