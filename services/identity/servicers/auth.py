"""AuthService: credentials into sessions."""

from typing import Any

import structlog
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import SessionEnded
from services.chassis.idempotency import no_access_needed, once
from services.chassis.secret import SecretKey
from services.identity import sessions, users, wire
from services.identity.errors import EmailUnverified, InvalidCredentials
from services.identity.keys import SigningKeys
from services.identity.passwords import Passwords, require_uncommon

log = structlog.get_logger()


class AuthService(auth_service_pb2_grpc.AuthServiceServicer):
    """Argon2 runs before each transaction, never inside: 20 ms of it would hold a connection and its locks."""

    def __init__(self, database: Database, secret: SecretKey, passwords: Passwords, keys: SigningKeys) -> None:
        self._database = database
        self._secret = secret
        self._passwords = passwords
        self._keys = keys

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        """Does the same work, and answers the same, whether or not the address is known."""
        address = emails.normalize(request.email)
        require_uncommon(request.password)
        password_hash = await self._passwords.hash(request.password)

        async def work(tx: AsyncConnection, _granted: None) -> pb.SignUpResponse:
            await users.sign_up(
                tx,
                self._secret,
                email=request.email.strip(),
                normalized_email=address,
                name=request.name,
                password_hash=password_hash,
            )
            return pb.SignUpResponse()

        return await once(
            self._database,
            self._secret,
            request,
            pb.SignUpResponse,
            access=no_access_needed,
            work=work,
            caller=address,
        )

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        """A repeated call must hold the right password too, before it is given the stored answer."""
        address = emails.normalize(request.email)
        while True:
            credentials = await self._require_password(address, request.password)
            try:
                return await self._start_session(request, address, credentials)
            except users.CredentialsChanged:
                # Another sign-in has renewed the hash, or the password was changed: verify again, within the deadline.
                continue

    async def RefreshSession(self, request: pb.RefreshSessionRequest, context: Any) -> pb.RefreshSessionResponse:
        """The token is both the credential and the key under which the call is repeatable."""
        refreshed = await self._database.transaction(
            lambda tx: sessions.refresh(tx, self._secret, token=request.session_token)
        )
        if refreshed.reused_session_id:
            log.warning("session_token_reused", session_id=refreshed.reused_session_id)
        if refreshed.session is None:
            raise SessionEnded
        return pb.RefreshSessionResponse(
            session=wire.session(refreshed.session), tokens=self._tokens(refreshed.session, refreshed.token)
        )

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> pb.SignOutResponse:
        """Ends the session of the bearer token."""
        session_id = current_call().session_id
        await self._database.transaction(lambda tx: sessions.end(tx, session_id=session_id, reason="signed_out"))
        return pb.SignOutResponse()

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: Any) -> pb.VerifyEmailResponse:
        """Whoever holds the token may; it is good once."""

        async def work(tx: AsyncConnection, _granted: None) -> pb.VerifyEmailResponse:
            return pb.VerifyEmailResponse(user=wire.user(await users.verify_email(tx, token=request.token)))

        return await once(
            self._database,
            self._secret,
            request,
            pb.VerifyEmailResponse,
            access=no_access_needed,
            work=work,
            caller=request.token,
        )

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        """Public by nature."""
        return pb.GetJwksResponse(keys=[pb.JsonWebKey(**key) for key in self._keys.published().values()])

    async def _require_password(self, address: str, password: str) -> users.Credentials:
        """The credentials that the password fits. INVALID_CREDENTIALS, or EMAIL_UNVERIFIED after a right one.

        Every refusal of a wrong password costs two verifications, so that its time tells neither whether the address
        is known nor whether somebody is about to sign up with it.
        """
        found = await self._database.read(lambda tx: users.find_credentials(tx, normalized_email=address))
        if await self._passwords.verify(found.password_hash, password):
            if found.is_disabled:
                raise InvalidCredentials
            if not found.is_verified:
                raise EmailUnverified
            return found
        if await self._passwords.verify(found.pending_password_hash, password):
            raise EmailUnverified
        raise InvalidCredentials

    async def _start_session(
        self, request: pb.SignInRequest, address: str, credentials: users.Credentials
    ) -> pb.SignInResponse:
        call = current_call()
        new_hash = ""
        if credentials.password_hash and self._passwords.is_outdated(credentials.password_hash):
            new_hash = await self._passwords.hash(request.password)

        async def work(tx: AsyncConnection, user: Row[Any]) -> pb.SignInResponse:
            if new_hash:
                await users.rehash(tx, user_id=user.id, password_hash=new_hash)
            session, token = await sessions.start(
                tx,
                user_id=user.id,
                device_label=request.device_label,
                client_address=call.client_address,
                user_agent=call.user_agent,
            )
            return pb.SignInResponse(
                user=wire.user(user), session=wire.session(session), tokens=self._tokens(session, token)
            )

        return await once(
            self._database,
            self._secret,
            request,
            pb.SignInResponse,
            access=lambda tx: users.access_credentials(tx, credentials=credentials),
            work=work,
            without_secret=_without_tokens,
            caller=address,
        )

    def _tokens(self, session: Row[Any], session_token: str) -> pb.SessionTokens:
        access_token = self._keys.sign(
            user_id=str(session.user_id), session_id=str(session.id), issued_at=session.clock
        )
        return wire.tokens(session_token, access_token)


def _without_tokens(answer: pb.SignInResponse) -> pb.SignInResponse:
    return pb.SignInResponse(user=answer.user, session=answer.session, secret_omitted=True)
