"""Guildhall's client for Python: one caller, whose tokens, repetitions, pages and streams look after themselves."""

from guildhall.client.calls import Client
from guildhall.client.errors import (
    Conflict,
    GuildhallError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    NotSignedIn,
    TooMuch,
    Unavailable,
)
from guildhall.client.uploads import FileChangedError

__all__ = [
    "Client",
    "Conflict",
    "FileChangedError",
    "GuildhallError",
    "InvalidRequest",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "TooMuch",
    "Unavailable",
]
