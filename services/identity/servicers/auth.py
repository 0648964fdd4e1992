"""AuthService: credentials into sessions."""

from collections.abc import Awaitable, Callable
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
from services.chassis.idempotency import Answer, Repeatable, find_stored, no_access_needed, once
from services.chassis.secret import SecretKey
from services.identity import (
    administrators,
    credentials,
    invites,
    service_accounts,
    sessions,
    users,
    verification,
    wire,
)
from services.identity.attempts import Attempts
from services.identity.errors import InvalidCredentials, SignUpClosed
from services.identity.guesses import Guesses
from services.identity.keys import SigningKeys
from services.identity.networks import network_of
from services.identity.passwords import Passwords, require_uncommon
from services.identity.settings import SignUpMode

log = structlog.get_logger()


class AuthService(auth_service_pb2_grpc.AuthServiceServicer):
    """Argon2 runs before each transaction, never inside: 20 ms of it would hold a connection and its locks.

    What mails somebody answers the same, and does nothing, once the limits of mails are reached.
    """

    def __init__(
        self,
        database: Database,
        secret: SecretKey,
        passwords: Passwords,
        keys: SigningKeys,
        *,
        attempts: Attempts,
        sign_up: SignUpMode,
    ) -> None:
        self._database = database
        self._secret = secret
        self._passwords = passwords
        self._keys = keys
        self._attempts = attempts
        self._guesses = Guesses(database, passwords, attempts)
        self._sign_up = sign_up

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        """Does the same work, and answers the same, whether or not the address is known."""
        address = emails.normalize(request.email)
        require_uncommon(request.password)
        await self._require_sign_up(request.invite_token)
        # The turn first: whoever is told to come back later has spent no mail.
        async with self._guesses.turn():
            if (given := await self._answered(request, pb.SignUpResponse(), address)) is not None:
                return given
            password_hash = await self._passwords.hash(request.password)

        async def write(tx: AsyncConnection) -> None:
            await users.sign_up(
                tx,
                self._secret,
                email=request.email.strip(),
                normalized_email=address,
                name=request.name,
                password_hash=password_hash,
            )

        return await self._once_mailed(request, pb.SignUpResponse(), address, write)

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        """A repeated call must hold the right password too, before it is given the stored answer."""
        address = emails.normalize(request.email)
        async with self._guesses.turn():
            while True:
                found = await self._database.read(lambda tx: credentials.find(tx, normalized_email=address))
                await self._guesses.require_sign_in(found, request.password)
                try:
                    return await self._sign_in(request, address, found)
                except credentials.CredentialsChanged:
                    # Another sign-in has renewed the hash, or the password was changed: verify again, in the deadline.
                    continue

    async def StartEmailSignIn(self, request: pb.StartEmailSignInRequest, context: Any) -> pb.StartEmailSignInResponse:
        """Where sign-up is open, an address that nobody has gets a link like any other."""
        address = emails.normalize(request.email)
        if (given := await self._answered(request, pb.StartEmailSignInResponse(), address)) is not None:
            return given

        async def write(tx: AsyncConnection) -> None:
            await users.start_email_sign_in(
                tx,
                self._secret,
                email=request.email.strip(),
                normalized_email=address,
                may_join=self._sign_up == "open",
            )

        return await self._once_mailed(request, pb.StartEmailSignInResponse(), address, write)

    async def CompleteEmailSignIn(
        self, request: pb.CompleteEmailSignInRequest, context: Any
    ) -> pb.CompleteEmailSignInResponse:
        """The stored answer to a repeated call is for who holds the token, of a user who is not disabled."""

        async def work(tx: AsyncConnection, holder: Row[Any]) -> pb.CompleteEmailSignInResponse:
            user = await users.complete_email_sign_in(tx, holder, token=request.token)
            session, token = await self._start_session(tx, user, request.device_label)
            return pb.CompleteEmailSignInResponse(
                user=wire.user(user), session=wire.session(session, current=True), tokens=self._tokens(session, token)
            )

        async with self._attempts.of_token():
            return await once(
                self._database,
                self._secret,
                request,
                pb.CompleteEmailSignInResponse,
                access=lambda tx: verification.access_holder(tx, token=request.token, purposes=users.EMAIL_SIGN_IN),
                work=work,
                without_secret=lambda answer: pb.CompleteEmailSignInResponse(
                    user=answer.user, session=answer.session, secret_omitted=True
                ),
                caller=request.token,
            )

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
            session=wire.session(refreshed.session, current=True),
            tokens=self._tokens(refreshed.session, refreshed.token),
        )

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> pb.SignOutResponse:
        """Ends the session of the bearer token."""
        call = current_call()
        await self._database.transaction(
            lambda tx: sessions.sign_out(tx, user_id=call.user_id, session_id=call.session_id)
        )
        return pb.SignOutResponse()

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: Any) -> pb.VerifyEmailResponse:
        """Whoever holds the token may; it is good once."""

        async def work(tx: AsyncConnection, holder: Row[Any]) -> pb.VerifyEmailResponse:
            return pb.VerifyEmailResponse(user=wire.user(await users.verify_email(tx, holder, token=request.token)))

        async with self._attempts.of_token():
            return await once(
                self._database,
                self._secret,
                request,
                pb.VerifyEmailResponse,
                access=lambda tx: verification.access_holder(tx, token=request.token, purposes=users.PROVING),
                work=work,
                caller=request.token,
            )

    async def ResendVerification(
        self, request: pb.ResendVerificationRequest, context: Any
    ) -> pb.ResendVerificationResponse:
        """Does the same work, and answers the same, whether or not there is something to verify."""
        address = emails.normalize(request.email)
        if (given := await self._answered(request, pb.ResendVerificationResponse(), address)) is not None:
            return given

        async def write(tx: AsyncConnection) -> None:
            await users.resend_verification(tx, self._secret, normalized_email=address)

        return await self._once_mailed(request, pb.ResendVerificationResponse(), address, write)

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Any
    ) -> pb.RequestPasswordResetResponse:
        """Does the same work, and answers the same, whether or not the address is known."""
        address = emails.normalize(request.email)
        if (given := await self._answered(request, pb.RequestPasswordResetResponse(), address)) is not None:
            return given

        async def write(tx: AsyncConnection) -> None:
            await users.request_password_reset(tx, self._secret, normalized_email=address)

        return await self._once_mailed(request, pb.RequestPasswordResetResponse(), address, write)

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.ResetPasswordResponse:
        """Whoever holds the token may; it is good once."""
        token, purposes = request.token, credentials.RESET_PASSWORD
        require_uncommon(request.new_password, field="new_password")

        async def work(tx: AsyncConnection, holder: Row[Any]) -> pb.ResetPasswordResponse:
            await credentials.reset(tx, holder, token=token, password_hash=password_hash)
            return pb.ResetPasswordResponse()

        async with self._attempts.of_token():
            # A token that is good for nothing is not worth a hash; its use fails, or the stored answer is found.
            is_good = await self._database.read(lambda tx: verification.is_good(tx, token=token, purposes=purposes))
            password_hash = await self._hash_in_turn(request.new_password) if is_good else ""
            return await once(
                self._database,
                self._secret,
                request,
                pb.ResetPasswordResponse,
                access=lambda tx: verification.access_holder(tx, token=token, purposes=purposes),
                work=work,
                caller=token,
            )

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Any) -> pb.ChangePasswordResponse:
        """A repeated call is given the stored answer, though the password that it calls the present one is none now."""
        require_uncommon(request.new_password, field="new_password")
        user_id = current_call().user_id
        async with self._guesses.turn():
            while True:
                found = await self._database.read(lambda tx: credentials.find_of_user(tx, user_id=user_id))
                if found.user_id is None or found.is_disabled:
                    # Deleted or disabled since the session was asked about: no reading would find the same again.
                    raise SessionEnded
                try:
                    return await self._change_password(request, found)
                except credentials.CredentialsChanged:
                    # As in SignIn.
                    continue

    async def ExchangeServiceKey(
        self, request: pb.ExchangeServiceKeyRequest, context: Any
    ) -> pb.ExchangeServiceKeyResponse:
        """The key is the credential, and each answer another token."""
        key = await self._database.atomic(lambda tx: service_accounts.exchange(tx, secret=request.service_key))
        token = self._keys.sign_for_service(
            service_account_id=str(key.service_account_id),
            key_id=str(key.id),
            scopes=key.scopes,
            workspace_ids=[str(workspace_id) for workspace_id in key.workspace_ids],
            issued_at=key.clock,
        )
        answer = pb.ExchangeServiceKeyResponse(access_token=token.text)
        answer.access_token_expire_time.FromDatetime(token.expires_at)
        return answer

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        """Public by nature."""
        return pb.GetJwksResponse(keys=[pb.JsonWebKey(**key) for key in self._keys.published().values()])

    async def _once_mailed(
        self, request: Repeatable, answer: Answer, address: str, write: Callable[[AsyncConnection], Awaitable[None]]
    ) -> Answer:
        async def work(tx: AsyncConnection, _granted: None) -> Answer:
            await write(tx)
            return answer

        return await once(
            self._database, self._secret, request, type(answer), access=no_access_needed, work=work, caller=address
        )

    async def _answered(self, request: Repeatable, answer: Answer, address: str) -> Answer | None:
        """The answer if this call is a repetition, which costs no mail, or one too many; None once a mail is spent."""
        stored = await find_stored(self._database, self._secret, request, type(answer), caller=address)
        if stored is not None:
            return stored
        return None if await self._may_mail(address) else answer

    async def _hash_in_turn(self, password: str) -> str:
        async with self._guesses.turn():
            return await self._passwords.hash(password)

    async def _may_mail(self, address: str) -> bool:
        """Spends a mail. The same statement for addresses that somebody has and for others."""
        network = network_of(current_call().client_address)
        is_own = await self._database.read(
            lambda tx: sessions.is_from_network(tx, normalized_email=address, network=network)
        )
        return await self._attempts.may_mail(address, from_own_network=is_own)

    async def _require_sign_up(self, invite_token: str) -> None:
        """SIGN_UP_CLOSED. Nothing about the address is asked."""
        if self._sign_up == "closed":
            raise SignUpClosed
        if self._sign_up == "invited" and not await self._database.read(
            lambda tx: invites.is_open(tx, token=invite_token)
        ):
            raise SignUpClosed

    async def _sign_in(
        self, request: pb.SignInRequest, address: str, found: credentials.Credentials
    ) -> pb.SignInResponse:
        new_hash = ""
        if found.password_hash and self._passwords.is_outdated(found.password_hash):
            new_hash = await self._passwords.hash(request.password)

        async def work(tx: AsyncConnection, user: Row[Any]) -> pb.SignInResponse:
            if new_hash:
                await credentials.rehash(tx, user_id=user.id, password_hash=new_hash)
            session, token = await self._start_session(tx, user, request.device_label)
            return pb.SignInResponse(
                user=wire.user(user), session=wire.session(session, current=True), tokens=self._tokens(session, token)
            )

        return await once(
            self._database,
            self._secret,
            request,
            pb.SignInResponse,
            access=lambda tx: credentials.access(tx, credentials=found),
            work=work,
            without_secret=lambda answer: pb.SignInResponse(
                user=answer.user, session=answer.session, secret_omitted=True
            ),
            caller=address,
        )

    async def _start_session(self, tx: AsyncConnection, user: Row[Any], device_label: str) -> tuple[Row[Any], str]:
        call = current_call()
        return await sessions.start(
            tx,
            user_id=str(user.id),
            device_label=device_label,
            client_address=call.client_address,
            user_agent=call.user_agent,
        )

    async def _change_password(
        self, request: pb.ChangePasswordRequest, found: credentials.Credentials
    ) -> pb.ChangePasswordResponse:
        matches = await self._guesses.matches_present(found, request.current_password)
        new_hash = await self._passwords.hash(request.new_password) if matches else ""

        async def access(tx: AsyncConnection) -> Row[Any]:
            user = await credentials.access(tx, credentials=found)
            if found.password_hash is None:
                await administrators.require_own_session(tx, user_id=str(user.id))
            return user

        async def work(tx: AsyncConnection, user: Row[Any]) -> pb.ChangePasswordResponse:
            if not matches:
                raise InvalidCredentials
            await credentials.change(tx, user, password_hash=new_hash, keep_session_id=current_call().session_id)
            return pb.ChangePasswordResponse()

        async with self._guesses.counted(found, matches=matches):
            return await once(
                self._database,
                self._secret,
                request,
                pb.ChangePasswordResponse,
                access=access,
                work=work,
            )

    def _tokens(self, session: Row[Any], session_token: str) -> pb.SessionTokens:
        access_token = self._keys.sign(
            user_id=str(session.user_id), session_id=str(session.id), issued_at=session.clock
        )
        return wire.tokens(session_token, access_token)
