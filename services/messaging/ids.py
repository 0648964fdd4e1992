"""Ids as PostgreSQL writes them."""

import uuid


def uuid_of(value: str) -> str:
    """A UUID in PostgreSQL's spelling: clients may send capitals."""
    return str(uuid.UUID(value))
