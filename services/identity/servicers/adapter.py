"""AdapterService: the functions of an Auth.js database adapter, each an RPC.

An answer repeats the tokens of its request, and an identifier, which is an address. They are added to it at the very
end, so that no stored answer holds them.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import adapter_service_pb2 as pb
from guildhall.identity.v1 import adapter_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import NotFound, SessionEnded
from services.chassis.idempotency import Repeatable, no_access_needed, once
from services.chassis.secret import SecretKey
from services.identity import accounts, adapter, administrators, departures, wire
from services.identity.keys import SigningKeys
from services.identity.seals import Seals
from services.identity.uses import Uses

Answer = TypeVar("Answer", bound=Message)


class AdapterService(rpc.AdapterServiceServicer):
    """What the adapter returns as null is absent in the answer."""

    def __init__(self, database: Database, secret: SecretKey, seals: Seals, keys: SigningKeys, uses: Uses) -> None:
        self._database = database
        self._secret = secret
        self._seals = seals
        self._keys = keys
        self._uses = uses

    async def CreateUser(
        self, request: pb.AdapterServiceCreateUserRequest, context: Any
    ) -> pb.AdapterServiceCreateUserResponse:
        """createUser."""
        verified_at = _time_or_none(request, "email_verified")

        async def create(tx: AsyncConnection) -> pb.AdapterServiceCreateUserResponse:
            row = await adapter.create_user(
                tx, email=request.email, name=request.name, image_url=request.image, verified_at=verified_at
            )
            return pb.AdapterServiceCreateUserResponse(user=wire.adapter_user(row))

        return await self._once(request, pb.AdapterServiceCreateUserResponse, create)

    async def GetUser(self, request: pb.AdapterServiceGetUserRequest, context: Any) -> pb.AdapterServiceGetUserResponse:
        """getUser, of any id that the app may hold."""
        try:
            user_id = str(UUID(request.user_id))
        except ValueError:
            return pb.AdapterServiceGetUserResponse()
        row = await self._database.read(lambda tx: adapter.find_user(tx, user_id=user_id))
        return pb.AdapterServiceGetUserResponse(user=wire.adapter_user(row) if row else None)

    async def GetUserByEmail(
        self, request: pb.AdapterServiceGetUserByEmailRequest, context: Any
    ) -> pb.AdapterServiceGetUserByEmailResponse:
        """getUserByEmail."""
        row = await self._database.read(lambda tx: adapter.find_user_by_email(tx, email=request.email))
        return pb.AdapterServiceGetUserByEmailResponse(user=wire.adapter_user(row) if row else None)

    async def GetUserByAccount(
        self, request: pb.AdapterServiceGetUserByAccountRequest, context: Any
    ) -> pb.AdapterServiceGetUserByAccountResponse:
        """getUserByAccount."""
        row = await self._database.read(
            lambda tx: adapter.find_user_by_account(
                tx, provider=request.provider, provider_account_id=request.provider_account_id
            )
        )
        return pb.AdapterServiceGetUserByAccountResponse(user=wire.adapter_user(row) if row else None)

    async def UpdateUser(
        self, request: pb.AdapterServiceUpdateUserRequest, context: Any
    ) -> pb.AdapterServiceUpdateUserResponse:
        """updateUser: what is named is set, to null if it is absent."""
        named = set(request.update_mask.paths)
        verified_at = _time_or_none(request, "email_verified") if "email_verified" in named else None

        async def update(tx: AsyncConnection) -> pb.AdapterServiceUpdateUserResponse:
            row = await adapter.update_user(
                tx,
                user_id=request.user_id,
                name=request.name if "name" in named else None,
                image_url=request.image if "image" in named else None,
                email=request.email if "email" in named else None,
                sets_verified="email_verified" in named,
                verified_at=verified_at,
            )
            return pb.AdapterServiceUpdateUserResponse(user=wire.adapter_user(row))

        return await self._once(request, pb.AdapterServiceUpdateUserResponse, update)

    async def DeleteUser(
        self, request: pb.AdapterServiceDeleteUserRequest, context: Any
    ) -> pb.AdapterServiceDeleteUserResponse:
        """deleteUser. Messages stay, as in UserService.DeleteUser unless it is told otherwise."""
        user_id = str(UUID(request.user_id))

        async def delete(tx: AsyncConnection) -> pb.AdapterServiceDeleteUserResponse:
            row = await adapter.find_user(tx, user_id=user_id)
            if row is None:
                return pb.AdapterServiceDeleteUserResponse()
            await administrators.require_not_one(tx, user_id=user_id)
            try:
                await departures.delete(tx, self._secret, user_id=user_id, etag="", erase_messages=False)
            except NotFound:  # somebody else was faster
                return pb.AdapterServiceDeleteUserResponse()
            return pb.AdapterServiceDeleteUserResponse(user=wire.adapter_user(row))

        return await self._once(request, pb.AdapterServiceDeleteUserResponse, delete)

    async def LinkAccount(
        self, request: pb.AdapterServiceLinkAccountRequest, context: Any
    ) -> pb.AdapterServiceLinkAccountResponse:
        """linkAccount."""
        ring = self._seals.ring()

        async def link(tx: AsyncConnection) -> pb.AdapterServiceLinkAccountResponse:
            row = await accounts.link(tx, ring=ring, account=request.account)
            return pb.AdapterServiceLinkAccountResponse(account=wire.adapter_account(row))

        return await self._once(request, pb.AdapterServiceLinkAccountResponse, link)

    async def UnlinkAccount(
        self, request: pb.AdapterServiceUnlinkAccountRequest, context: Any
    ) -> pb.AdapterServiceUnlinkAccountResponse:
        """unlinkAccount, by the provider's id."""

        async def unlink(tx: AsyncConnection) -> pb.AdapterServiceUnlinkAccountResponse:
            found = await accounts.find(tx, provider=request.provider, provider_account_id=request.provider_account_id)
            row = found and await accounts.unlink(tx, user_id=str(found.user_id), account_id=str(found.id))
            return pb.AdapterServiceUnlinkAccountResponse(account=wire.adapter_account(row) if row else None)

        return await self._once(request, pb.AdapterServiceUnlinkAccountResponse, unlink)

    async def CreateSession(
        self, request: pb.AdapterServiceCreateSessionRequest, context: Any
    ) -> pb.AdapterServiceCreateSessionResponse:
        """createSession."""
        token = request.session.session_token
        expires = wire.read_time(request.session.expires, field="session.expires")

        async def create(tx: AsyncConnection) -> pb.AdapterServiceCreateSessionResponse:
            row = await adapter.create_session(tx, token=token, user_id=request.session.user_id, expires=expires)
            return pb.AdapterServiceCreateSessionResponse(session=wire.adapter_session(row))

        answer = await self._once(request, pb.AdapterServiceCreateSessionResponse, create)
        answer.session.session_token = token
        return answer

    async def GetSessionAndUser(
        self, request: pb.AdapterServiceGetSessionAndUserRequest, context: Any
    ) -> pb.AdapterServiceGetSessionAndUserResponse:
        """getSessionAndUser: both, or neither."""
        row = await self._database.read(lambda tx: adapter.find_session(tx, token=request.session_token))
        if row is None:
            return pb.AdapterServiceGetSessionAndUserResponse()
        self._uses.note(str(row.session_id))
        session = wire.adapter_session(row)
        session.session_token = request.session_token
        return pb.AdapterServiceGetSessionAndUserResponse(session=session, user=wire.adapter_user(row))

    async def UpdateSession(
        self, request: pb.AdapterServiceUpdateSessionRequest, context: Any
    ) -> pb.AdapterServiceUpdateSessionResponse:
        """updateSession."""
        named = set(request.update_mask.paths)
        expires = wire.read_time(request.expires, field="expires") if "expires" in named else None

        async def update(tx: AsyncConnection) -> pb.AdapterServiceUpdateSessionResponse:
            row = await adapter.update_session(
                tx,
                token=request.session_token,
                expires=expires,
                user_id=str(UUID(request.user_id)) if "user_id" in named else None,
            )
            return pb.AdapterServiceUpdateSessionResponse(session=wire.adapter_session(row) if row else None)

        answer = await self._once(request, pb.AdapterServiceUpdateSessionResponse, update)
        if answer.HasField("session"):
            answer.session.session_token = request.session_token
        return answer

    async def DeleteSession(
        self, request: pb.AdapterServiceDeleteSessionRequest, context: Any
    ) -> pb.AdapterServiceDeleteSessionResponse:
        """deleteSession."""

        async def end(tx: AsyncConnection) -> pb.AdapterServiceDeleteSessionResponse:
            row = await adapter.end_session(tx, token=request.session_token)
            return pb.AdapterServiceDeleteSessionResponse(session=wire.adapter_session(row) if row else None)

        answer = await self._once(request, pb.AdapterServiceDeleteSessionResponse, end)
        if answer.HasField("session"):
            answer.session.session_token = request.session_token
        return answer

    async def CreateVerificationToken(
        self, request: pb.AdapterServiceCreateVerificationTokenRequest, context: Any
    ) -> pb.AdapterServiceCreateVerificationTokenResponse:
        """createVerificationToken."""
        wanted = request.verification_token
        expires = wire.read_time(wanted.expires, field="verification_token.expires")

        async def create(tx: AsyncConnection) -> pb.AdapterServiceCreateVerificationTokenResponse:
            await adapter.create_token(tx, identifier=wanted.identifier, token=wanted.token, expires=expires)
            return pb.AdapterServiceCreateVerificationTokenResponse()

        await self._once(request, pb.AdapterServiceCreateVerificationTokenResponse, create)
        return pb.AdapterServiceCreateVerificationTokenResponse(verification_token=wanted)

    async def UseVerificationToken(
        self, request: pb.AdapterServiceUseVerificationTokenRequest, context: Any
    ) -> pb.AdapterServiceUseVerificationTokenResponse:
        """useVerificationToken."""

        async def use(tx: AsyncConnection) -> pb.AdapterServiceUseVerificationTokenResponse:
            answer = pb.AdapterServiceUseVerificationTokenResponse()
            expires = await adapter.use_token(tx, identifier=request.identifier, token=request.token)
            if expires is not None:
                answer.verification_token.expires.FromDatetime(expires)
            return answer

        answer = await self._once(request, pb.AdapterServiceUseVerificationTokenResponse, use)
        if answer.HasField("verification_token"):
            answer.verification_token.identifier = request.identifier
            answer.verification_token.token = request.token
        return answer

    async def CreateAccessToken(
        self, request: pb.AdapterServiceCreateAccessTokenRequest, context: Any
    ) -> pb.AdapterServiceCreateAccessTokenResponse:
        """None of Auth.js's: what the app needs to call the other services."""
        row = await self._database.read(lambda tx: adapter.find_session(tx, token=request.session_token))
        if row is None:
            raise SessionEnded
        signed = self._keys.sign(user_id=str(row.user_id), session_id=str(row.session_id), issued_at=row.clock)
        answer = pb.AdapterServiceCreateAccessTokenResponse(access_token=signed.text)
        answer.access_token_expire_time.FromDatetime(signed.expires_at)
        return answer

    async def _once(
        self, request: Repeatable, answer_class: type[Answer], work: Callable[[AsyncConnection], Awaitable[Answer]]
    ) -> Answer:
        async def unit(tx: AsyncConnection, _granted: None) -> Answer:
            return await work(tx)

        return await once(self._database, self._secret, request, answer_class, access=no_access_needed, work=unit)


def _time_or_none(request: Message, field: str) -> datetime | None:
    value: Timestamp = getattr(request, field)
    return wire.read_time(value, field=field) if request.HasField(field) else None
