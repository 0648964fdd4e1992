"""The store of blobs: a folder or an S3 bucket. A file is its parts, each an object that never changes (ADR 9).

A part's key holds its hash, so that whoever writes late, after a time-out or from a dead connection, can put nothing in
the place of what was compared.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from services.messaging.errors import BlobsUnavailable
from services.messaging.settings import BlobSettings

log = structlog.get_logger()
Result = TypeVar("Result")

PART_BYTES = 256 << 10
ANSWER_SECONDS = 5.0
"""For one part: within the time of a unary call, the store's own retries included."""
FOLDER = "blobs"
PAGE = 1000


class BlobMissing(Exception):
    """A part is not there: its file was deleted meanwhile, or the store has lost it."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where in a file a part is, and what is in it."""

    number: int
    sha256: bytes


class Blobs:
    """Whatever goes wrong in the store is BLOBS_UNAVAILABLE, and in the log."""

    def __init__(self, store: LocalStore | S3Store) -> None:
        self._store = store

    async def put(self, file_id: str, part: Part, data: bytes) -> None:
        """Stores a part. Putting it again is the same."""
        await _answer(self._store.put_async(_key(file_id, part), data, use_multipart=False))

    async def get(self, file_id: str, part: Part, *, start: int, end: int) -> bytes:
        """The bytes of a part from `start` to before `end`. BlobMissing."""
        answer = await _answer(self._store.get_range_async(_key(file_id, part), start=start, end=end))
        return answer.to_bytes()

    def digest(self, file_id: str, parts: Sequence[Part]) -> bytes:
        """SHA-256 over what is really stored. For a thread of its own: it reads everything, a part at a time."""
        whole = hashlib.sha256()
        try:
            for part in parts:
                whole.update(self._store.get(_key(file_id, part)).bytes())
        except (BaseError, OSError, ValueError) as error:
            raise _fault(error) from error
        return whole.digest()

    async def drop(self, file_id: str, part: Part) -> None:
        """Removes one part that nobody will ask for."""
        await self._delete([_key(file_id, part)])

    async def remove(self, file_id: str) -> None:
        """Removes all there is of a file, parts that were never recorded included. Repeatable."""
        async with aclosing(self.pages(file_id)) as pages:
            async for page in pages:
                await self._delete([key for key, _ in page])

    async def pages(self, file_id: str = "") -> AsyncGenerator[list[tuple[str, datetime]], None]:
        """Keys and times of what is stored of a file, or of all, in no order, a thousand at a time."""
        stream = self._store.list(f"{FOLDER}/{file_id}", chunk_size=PAGE)
        while True:
            try:
                page = await _answer(anext(stream))
            except StopAsyncIteration:
                return
            yield [(entry["path"], entry["last_modified"]) for entry in page]

    async def _delete(self, keys: list[str]) -> None:
        try:
            await _answer(self._store.delete_async(keys))
        except BlobMissing:
            if len(keys) > 1:
                # One of them was gone before, and the others may have been left.
                for key in keys:
                    await self._delete([key])


def open_blobs(settings: BlobSettings) -> Blobs:
    """The store that the settings name. Nothing is asked of a bucket yet; a folder is made if it is missing."""
    url = urlsplit(settings.blob_url)
    if url.scheme == "file":
        return Blobs(LocalStore(prefix=unquote(url.path), automatic_cleanup=True, mkdir=True))
    return Blobs(
        S3Store(
            url.netloc,
            prefix=url.path.strip("/") or None,
            region=settings.blob_region,
            endpoint=settings.blob_endpoint,
            access_key_id=settings.blob_key_id,
            secret_access_key=settings.blob_secret_key,
            # Only settings say http, and only for this machine.
            client_options={"allow_http": True, "connect_timeout": "2s", "timeout": "4s"},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=3)},
        )
    )


def file_id_of(key: str) -> str:
    """The file that a key is of; anything for what is no key of ours."""
    return key.removeprefix(f"{FOLDER}/").partition("/")[0]


def _key(file_id: str, part: Part) -> str:
    return f"{FOLDER}/{file_id}/{part.number}-{part.sha256.hex()}"


async def _answer(asked: Awaitable[Result]) -> Result:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asked
    except (BaseError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise _fault(error) from error


def _fault(error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return BlobMissing()
    # Not its text, which holds keys and addresses.
    log.error("blobs_unavailable", error=type(error).__name__)
    return BlobsUnavailable()
