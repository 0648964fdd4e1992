"""ServiceAccountService: the callers that are no people, kept by system administrators."""

from typing import Any
from uuid import UUID

from guildhall.identity.v1 import service_account_service_pb2 as pb
from guildhall.identity.v1 import service_account_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.identity import service_accounts, wire
from services.identity.administrators import require_administrator


class ServiceAccountService(rpc.ServiceAccountServiceServicer):
    """Whoever is no administrator is refused before anything is looked up."""

    def __init__(self, database: Database, secret: SecretKey) -> None:
        self._database = database
        self._secret = secret

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Any
    ) -> pb.CreateServiceAccountResponse:
        """Without a key: that is a call of its own, whose answer is a secret."""
        user_id = current_call().user_id

        async def create(tx: AsyncConnection, _granted: None) -> pb.CreateServiceAccountResponse:
            row = await service_accounts.create(
                tx,
                created_by=user_id,
                name=request.name,
                scopes=request.scopes,
                workspace_ids=request.workspace_ids,
            )
            return pb.CreateServiceAccountResponse(service_account=wire.service_account(row))

        return await once(
            self._database,
            self._secret,
            request,
            pb.CreateServiceAccountResponse,
            access=_require_administrator,
            work=create,
        )

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Any
    ) -> pb.ListServiceAccountsResponse:
        """A page, with the live keys of each."""
        scope = ("ListServiceAccounts", current_call().user_id)
        size = page_size(request.page_size)

        async def read(tx: AsyncConnection) -> pb.ListServiceAccountsResponse:
            await _require_administrator(tx)
            key = page_key(self._secret, scope, request.page_token)
            rows = await service_accounts.list_page(tx, after=str(key[0]) if key else None, size=size + 1)
            page = rows[:size]
            keys = await service_accounts.live_keys(tx, account_ids=[str(row.id) for row in page])
            return pb.ListServiceAccountsResponse(
                service_accounts=[wire.service_account(row, keys[str(row.id)]) for row in page],
                next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
            )

        return await self._database.read(read)

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: Any
    ) -> pb.DeleteServiceAccountResponse:
        """With its keys, and so with its tokens."""
        user_id = current_call().user_id

        async def delete(tx: AsyncConnection, _granted: None) -> pb.DeleteServiceAccountResponse:
            await service_accounts.delete(tx, deleted_by=user_id, account_id=str(UUID(request.service_account_id)))
            return pb.DeleteServiceAccountResponse()

        return await once(
            self._database,
            self._secret,
            request,
            pb.DeleteServiceAccountResponse,
            access=_require_administrator,
            work=delete,
        )

    async def CreateServiceKey(self, request: pb.CreateServiceKeyRequest, context: Any) -> pb.CreateServiceKeyResponse:
        """The only answer with the secret in it, but for repeated ones within 10 minutes."""
        user_id = current_call().user_id

        async def create(tx: AsyncConnection, _granted: None) -> pb.CreateServiceKeyResponse:
            key, secret = await service_accounts.create_key(
                tx, created_by=user_id, account_id=str(UUID(request.service_account_id))
            )
            return pb.CreateServiceKeyResponse(key=wire.service_key(key), service_key=secret)

        return await once(
            self._database,
            self._secret,
            request,
            pb.CreateServiceKeyResponse,
            access=_require_administrator,
            work=create,
            without_secret=_without_secret,
        )

    async def RevokeServiceKey(self, request: pb.RevokeServiceKeyRequest, context: Any) -> pb.RevokeServiceKeyResponse:
        """From the next call on, whatever token came from it."""
        user_id = current_call().user_id

        async def revoke(tx: AsyncConnection, _granted: None) -> pb.RevokeServiceKeyResponse:
            key = await service_accounts.revoke_key(
                tx,
                revoked_by=user_id,
                account_id=str(UUID(request.service_account_id)),
                key_id=request.key_id,
            )
            return pb.RevokeServiceKeyResponse(key=wire.service_key(key))

        return await once(
            self._database,
            self._secret,
            request,
            pb.RevokeServiceKeyResponse,
            access=_require_administrator,
            work=revoke,
        )


async def _require_administrator(tx: AsyncConnection) -> None:
    await require_administrator(tx, user_id=current_call().user_id)


def _without_secret(answer: pb.CreateServiceKeyResponse) -> pb.CreateServiceKeyResponse:
    return pb.CreateServiceKeyResponse(key=answer.key, secret_omitted=True)
