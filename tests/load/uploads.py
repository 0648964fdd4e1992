"""Many uploads at once: what they take of messaging's memory, and how fast they are."""

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from guildhall.messaging.v1 import file_service_pb2 as files
from guildhall.messaging.v1 import file_service_pb2_grpc as files_rpc

from tests.load.generator import Control
from tests.load.lab import Figure, Lab
from tests.load.wire import bearer, close_channels, open_channels

AT_ONCE = 100
MIB = 20
GOAL_MIB = 64
_FRAME_BYTES = 256 << 10
_CALL_SECONDS = 300
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Uploading:
    """Files of the same content, announced and then sent all at once."""

    target: str
    workspace_id: str
    conversation_id: str
    tokens: Sequence[str]
    """Each file's uploader's."""
    mib: int

    async def run(self, control: Control) -> dict[str, Any]:
        """How many calls had which status, and the seconds that the sending took."""
        content = os.urandom(1 << 20) * self.mib
        channels = open_channels(self.target, 4)
        stubs: list[Any] = [files_rpc.FileServiceStub(channel) for channel in channels]
        codes: Counter[str] = Counter()
        try:
            ids = [await self._announce(stubs[0], token, content) for token in self.tokens]

            async def send(number: int) -> None:
                codes[await self._send(stubs[number % len(stubs)], number, ids[number], content)] += 1
                control.tell(codes["OK"])

            begun = time.monotonic()
            await asyncio.gather(*map(send, range(len(ids))))
            return {"codes": dict(codes), "seconds": time.monotonic() - begun}
        finally:
            await close_channels(channels)

    async def _announce(self, stub: Any, token: str, content: bytes) -> str:
        request = files.CreateUploadRequest(
            workspace_id=self.workspace_id,
            conversation_id=self.conversation_id,
            name="load",
            mime_type="application/octet-stream",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).digest(),
        )
        answer = await stub.CreateUpload(request, metadata=bearer(token), timeout=_CALL_SECONDS)
        return str(answer.file.file_id)

    async def _send(self, stub: Any, number: int, file_id: str, content: bytes) -> str:
        async def frames() -> AsyncIterator[files.UploadFileRequest]:
            start = files.UploadStart(workspace_id=self.workspace_id, file_id=file_id)
            yield files.UploadFileRequest(start=start)
            for at in range(0, len(content), _FRAME_BYTES):
                yield files.UploadFileRequest(data=content[at : at + _FRAME_BYTES])

        metadata = bearer(self.tokens[number])
        try:
            answer = await stub.UploadFile(frames(), metadata=metadata, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK" if answer.file.state == files.FILE_STATE_READY else "UNFINISHED"


async def uploads(lab: Lab) -> Figure:
    """How many MiB messaging's resident memory grows at the most while 100 files of 20 MiB are uploaded at once."""
    tokens = await lab.crowd.tokens(lab.system)
    many = [tokens[number % len(tokens)] for number in range(AT_ONCE)]
    place = (lab.system.target, lab.crowd.workspace_id, lab.crowd.conversation_ids[0])
    # What the first upload costs is not of each.
    await lab.run(Uploading(*place, many[:1], MIB), "one upload before")
    before = highest = lab.inside.resident_kib("messaging")
    running = asyncio.ensure_future(lab.run(Uploading(*place, many, MIB), f"{AT_ONCE} uploads of {MIB} MiB"))
    while not running.done():
        highest = max(highest, lab.inside.resident_kib("messaging"))
        await asyncio.sleep(_LOOK_SECONDS)
    outcome = await running
    grown = (highest - before) / 1024
    detail = {
        "codes": outcome["codes"],
        "seconds": round(outcome["seconds"], 1),
        "mib_per_second": round(AT_ONCE * MIB / outcome["seconds"], 1),
        "messaging_kib_before": before,
        "messaging_kib_highest": highest,
    }
    return Figure(grown, GOAL_MIB, grown <= GOAL_MIB and outcome["codes"] == {"OK": AT_ONCE}, detail)
