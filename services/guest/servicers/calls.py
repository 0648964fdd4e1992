"""How every change of a guest is called, and how lists are cut into pages."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.frame import Frame
from services.chassis.idempotency import Repeatable, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.guest.access import Access, access_guest
from services.guest.sight import Losses

Answer = TypeVar("Answer", bound=Message)


class Changes:
    """Changes guests: once for each request id, and acknowledged only when what took sight away is known everywhere."""

    def __init__(self, frame: Frame, *, access: Access, losses: Losses) -> None:
        self._frame = frame
        self._access = access
        self._losses = losses

    async def make(
        self,
        request: Repeatable,
        answer_class: type[Answer],
        *,
        guest: Any,
        work: Callable[[AsyncConnection, Row[Any]], Awaitable[Answer]],
        by_managers_only: bool = False,
    ) -> Answer:
        """Does `work` with a guest that is locked; `guest` has the two ids. NOT_FOUND, PERMISSION_DENIED.

        `work` is given the guest as they were.
        """
        named = {"workspace_id": guest.workspace_id, "member_id": guest.member_id}
        standing = await self._access.require_standing(guest.workspace_id)

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await access_guest(tx, standing, **named, by_managers_only=by_managers_only)

        return await self.settled(
            guest.workspace_id,
            once(self._frame.database, self._frame.secret, request, answer_class, access=access, work=work),
        )

    async def settled(self, workspace_id: str, change: Awaitable[Answer]) -> Answer:
        """A change's answer, once membership has raised the access revision for all it took away; a stored one too."""
        answer = await change
        await self._losses.settle(workspace_id)
        return answer


class Page:
    """A page that was asked for: after which row, and how many rows at the most."""

    def __init__(self, secret: SecretKey, request: Any, *filters: str) -> None:
        """`filters` are what else the list depends on, in one spelling."""
        call = current_call()
        self._secret = secret
        self._scope = (call.rpc, call.user_id, str(UUID(request.workspace_id)), *filters)
        key = page_key(secret, self._scope, request.page_token)
        self.after = str(key[0]) if key else None
        self.size = page_size(request.page_size)

    def cut(self, rows: Sequence[Any], key: str) -> tuple[Sequence[Any], str]:
        """The page of up to size + 1 rows, and the token of the next one; `key` is the column they are sorted by."""
        page = rows[: self.size]
        if len(rows) <= self.size:
            return page, ""
        return page, page_token(self._secret, self._scope, [str(getattr(page[-1], key))])
