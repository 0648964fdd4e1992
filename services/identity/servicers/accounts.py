"""AccountService: the accounts at providers that users sign in with."""

from typing import Any
from uuid import UUID

from guildhall.identity.v1 import account_service_pb2 as pb
from guildhall.identity.v1 import account_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.identity import accounts, wire
from services.identity.seals import Seals


class AccountService(rpc.AccountServiceServicer):
    """One's own accounts; linking is for back ends, who have seen the proof."""

    def __init__(self, database: Database, secret: SecretKey, seals: Seals) -> None:
        self._database = database
        self._secret = secret
        self._seals = seals

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Any) -> pb.ListAccountsResponse:
        """A page of the caller's."""
        user_id = current_call().user_id
        scope = ("ListAccounts", user_id)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        rows = await self._database.read(
            lambda tx: accounts.list_page(tx, user_id=user_id, after=str(key[0]) if key else None, size=size + 1)
        )
        page = rows[:size]
        return pb.ListAccountsResponse(
            accounts=[wire.account(row) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def UnlinkAccount(self, request: pb.UnlinkAccountRequest, context: Any) -> pb.UnlinkAccountResponse:
        """One of the caller's, unless it is all that they have."""
        user_id = current_call().user_id

        async def unlink(tx: AsyncConnection, _granted: None) -> pb.UnlinkAccountResponse:
            if await accounts.unlink(tx, user_id=user_id, account_id=str(UUID(request.account_id))) is None:
                raise NotFound
            return pb.UnlinkAccountResponse()

        return await once(
            self._database, self._secret, request, pb.UnlinkAccountResponse, access=no_access_needed, work=unlink
        )

    async def LinkAccount(self, request: pb.LinkAccountRequest, context: Any) -> pb.LinkAccountResponse:
        """On the back end's word that both are the same person."""
        ring = self._seals.ring()

        async def link(tx: AsyncConnection, _granted: None) -> pb.LinkAccountResponse:
            return pb.LinkAccountResponse(
                account=wire.account(await accounts.link(tx, ring=ring, account=request.account))
            )

        return await once(
            self._database, self._secret, request, pb.LinkAccountResponse, access=no_access_needed, work=link
        )
