"""Exporting the activity log as lines of JSON: page after page, each of which asks anew whether the caller may."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from google.protobuf.json_format import MessageToJson
from guildhall.membership.v1 import activity_service_pb2 as pb

from services.chassis.errors import DeadlineExceeded
from services.membership import wire_activities
from services.membership.activity_reads import Page

ROWS = 500
CHUNK_BYTES = 64 << 10
MOST_OF_USER = 4
"""At once, in one process: each holds a page for as long as its reader takes."""
LONGEST_SECONDS = 900.0
"""An export's age: whoever wants more goes on after the last number, and is let in anew."""

ReadAfter = Callable[[int], Awaitable[Page]]
"""Up to ROWS activities after a number; refuses who may not have them any more."""


async def export(read_after: ReadAfter, after: int) -> AsyncGenerator[pb.ExportActivitiesResponse, None]:
    """Whole lines in chunks of 64 KiB or little more, to the newest activity. Names are left out.

    Errors: DeadlineExceeded, once what was read before it has been handed out.
    """
    until = time.monotonic() + LONGEST_SECONDS
    lines, size = [], 0
    start: int | None = after
    while start is not None:
        page = await read_after(start)
        start = page.next
        for row in page.rows:
            after = row.number
            line = MessageToJson(wire_activities.activity(row), indent=None).encode() + b"\n"
            lines.append(line)
            size += len(line)
            if size >= CHUNK_BYTES:
                yield pb.ExportActivitiesResponse(json_lines=b"".join(lines), last_number=after)
                lines, size = [], 0
        if time.monotonic() >= until:
            break
    if lines:
        yield pb.ExportActivitiesResponse(json_lines=b"".join(lines), last_number=after)
    if start is not None:
        # Not an end like any other: it would pass for all there is.
        raise DeadlineExceeded("An export lasts 15 minutes at most; go on after its last number.")
