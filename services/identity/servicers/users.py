"""UserService: what is known of people, and what they and others do about it."""

from typing import Any
from uuid import UUID

from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.identity import administrators, departures, hashes, imports, profiles, users, verification, wire
from services.identity.administrators import require_administrator, require_own_session
from services.identity.attempts import Attempts


class UserService(user_service_pb2_grpc.UserServiceServicer):
    """Oneself, and anybody for system administrators and other services."""

    def __init__(self, database: Database, secret: SecretKey, attempts: Attempts) -> None:
        self._database = database
        self._secret = secret
        self._attempts = attempts

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        """The caller."""
        user_id = current_call().user_id
        row = await self._database.read(lambda tx: profiles.access_user(tx, user_id=user_id))
        return pb.GetUserResponse(user=wire.user(row))

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, context: Any) -> pb.BatchGetUsersResponse:
        """On the calling service's word: who may know of whom is decided there."""

        async def work(tx: AsyncConnection) -> pb.BatchGetUsersResponse:
            rows = await profiles.list_users(tx, user_ids=request.user_ids)
            session_id = request.caller_session_id
            administrator_id = await administrators.find(tx, session_id=session_id) if session_id else None
            return pb.BatchGetUsersResponse(users=[wire.peer_user(row, administrator_id) for row in rows])

        return await self._database.read(work)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.UpdateUserResponse:
        """Does the same about a new address, and answers the same, whether or not somebody has it."""
        user_id = current_call().user_id
        paths = set(request.update_mask.paths)
        email = request.email.strip() if "email" in paths else ""
        address = emails.normalize(email) if email else ""

        async def access(tx: AsyncConnection) -> Row[Any]:
            user = await profiles.lock(tx, user_id=user_id)
            if email not in ("", user.email):
                await require_own_session(tx, user_id=user_id)
            return user

        async def is_due(tx: AsyncConnection) -> bool:
            return await users.is_change_due(tx, user_id=user_id, normalized_email=address)

        # Asked before a mail is spent: whoever saves the same form again has not asked for another.
        may_mail = bool(address) and await self._database.read(is_due) and await self._attempts.may_mail(address)

        async def work(tx: AsyncConnection, user: Row[Any]) -> pb.UpdateUserResponse:
            profiles.require_etag(user, request.etag)
            is_new = address not in ("", user.normalized_email)
            changed = await profiles.update(
                tx,
                user,
                name=request.name if "name" in paths else None,
                image_url=request.image_url if "image_url" in paths else None,
                email=email if address and not is_new else None,
            )
            # Asked again, now that the user is locked: two calls at once are one request.
            if may_mail and await is_due(tx):
                await users.start_email_change(tx, self._secret, user_id=user_id, email=email)
            return pb.UpdateUserResponse(user=wire.user(changed), pending_email_change=is_new)

        return await once(
            self._database,
            self._secret,
            request,
            pb.UpdateUserResponse,
            access=access,
            work=work,
        )

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Any) -> pb.DeleteUserResponse:
        """Oneself, soon after signing in; or anybody, for a system administrator."""
        call = current_call()
        user_id = str(UUID(request.user_id)) if request.user_id else call.user_id

        async def access(tx: AsyncConnection) -> None:
            if user_id != call.user_id:
                await require_administrator(tx, user_id=call.user_id)
            else:
                await departures.require_recent_session(tx, user_id=user_id, session_id=call.session_id)
                await require_own_session(tx, user_id=user_id)

        async def work(tx: AsyncConnection, _granted: None) -> pb.DeleteUserResponse:
            await departures.delete(
                tx, self._secret, user_id=user_id, etag=request.etag, erase_messages=request.erase_messages
            )
            return pb.DeleteUserResponse()

        return await once(self._database, self._secret, request, pb.DeleteUserResponse, access=access, work=work)

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        """A page for a system administrator."""
        user_id = current_call().user_id
        prefix = emails.normalize_prefix(request.email_prefix)
        scope = ("ListUsers", user_id, str(request.show_disabled), prefix)
        size = page_size(request.page_size)

        async def work(tx: AsyncConnection) -> pb.ListUsersResponse:
            await require_administrator(tx, user_id=user_id)
            key = page_key(self._secret, scope, request.page_token)
            rows = await profiles.list_page(
                tx,
                after=str(key[0]) if key else None,
                size=size + 1,
                show_disabled=request.show_disabled,
                email_prefix=prefix,
            )
            answer = pb.ListUsersResponse(users=[wire.listed_user(row) for row in rows[:size]])
            if len(rows) > size:
                last = rows[size - 1]
                answer.next_page_token = page_token(
                    self._secret, scope, [last.normalized_email if prefix else str(last.id)]
                )
            return answer

        return await self._database.read(work)

    async def DisableUser(self, request: pb.DisableUserRequest, context: Any) -> pb.DisableUserResponse:
        """Their sessions end in the same transaction."""
        actor_id = current_call().user_id

        async def work(tx: AsyncConnection, _granted: None) -> pb.DisableUserResponse:
            row = await profiles.disable(tx, user_id=request.user_id, etag=request.etag, actor_id=actor_id)
            await verification.drop(tx, user_id=request.user_id, purposes=["change_email"])
            return pb.DisableUserResponse(user=wire.listed_user(row))

        return await once(
            self._database,
            self._secret,
            request,
            pb.DisableUserResponse,
            access=lambda tx: require_administrator(tx, user_id=actor_id),
            work=work,
        )

    async def EnableUser(self, request: pb.EnableUserRequest, context: Any) -> pb.EnableUserResponse:
        """They may sign in; the sessions of before stay ended."""
        actor_id = current_call().user_id

        async def work(tx: AsyncConnection, _granted: None) -> pb.EnableUserResponse:
            row = await profiles.enable(tx, user_id=request.user_id, etag=request.etag, actor_id=actor_id)
            return pb.EnableUserResponse(user=wire.listed_user(row))

        return await once(
            self._database,
            self._secret,
            request,
            pb.EnableUserResponse,
            access=lambda tx: require_administrator(tx, user_id=actor_id),
            work=work,
        )

    async def ImportUser(self, request: pb.ImportUserRequest, context: Any) -> pb.ImportUserResponse:
        """Whoever may is told that an address is taken; the password's hash is renewed at the first sign-in."""
        address = emails.normalize(request.email)
        if request.password_hash:
            hashes.require_supported(request.password_hash)
        verified_at = None
        if request.HasField("email_verify_time"):
            verified_at = wire.read_time(request.email_verify_time, field="email_verify_time")

        async def work(tx: AsyncConnection, _granted: None) -> pb.ImportUserResponse:
            row = await imports.add(
                tx,
                email=request.email.strip(),
                normalized_email=address,
                name=request.name,
                image_url=request.image_url,
                email_verified_at=verified_at,
                password_hash=request.password_hash or None,
            )
            return pb.ImportUserResponse(user=wire.listed_user(row))

        return await once(
            self._database, self._secret, request, pb.ImportUserResponse, access=no_access_needed, work=work
        )
