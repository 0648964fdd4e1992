"""Signing in and out at a gateway, and calling it as who is signed in."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client import Client
from guildhall.client.credentials import refresh
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1.session_service_pb2 import Session as UserSession
from guildhall.identity.v1.user_service_pb2 import User

from deploy.remote.refusals import SignInFirstError, in_words
from deploy.remote.sessions import Session, Sessions
from deploy.remote.settings import Gateway


def client_of(gateway: Gateway) -> Client:
    """A client at a gateway; nobody is signed in."""
    if not gateway.tls:
        # It is on this machine: no proxy is asked about that.
        return Client(gateway.target, options=[("grpc.enable_http_proxy", 0)])
    authority = Path(gateway.ca_file).read_bytes() if gateway.ca_file else None
    return Client(gateway.target, channel_credentials=grpc.ssl_channel_credentials(authority))


async def sign_in(gateway: Gateway, sessions: Sessions, email: str, password: str) -> tuple[User, UserSession]:
    """Starts a session by password and keeps it."""
    request = auth.SignInRequest(email=email, password=password, device_label=_device())
    async with client_of(gateway) as client:
        with in_words(gateway):
            answer: Any = await client.call(client.stub(auth_rpc.AuthServiceStub).SignIn, request)
    await sessions.keep(_session(gateway, answer.user.email, answer.tokens))
    return answer.user, answer.session


async def sign_in_by_mail(
    gateway: Gateway, sessions: Sessions, email: str, ask: Callable[[], str]
) -> tuple[User, UserSession]:
    """Has a link mailed, asks for it or for the token in it, starts a session by that and keeps it."""
    async with client_of(gateway) as client:
        stub = client.stub(auth_rpc.AuthServiceStub)
        with in_words(gateway):
            await client.call(stub.StartEmailSignIn, auth.StartEmailSignInRequest(email=email))
            request = auth.CompleteEmailSignInRequest(token=_token_in(ask()), device_label=_device())
            answer: Any = await client.call(stub.CompleteEmailSignIn, request)
    await sessions.keep(_session(gateway, answer.user.email, answer.tokens))
    return answer.user, answer.session


async def sign_out(gateway: Gateway, sessions: Sessions) -> None:
    """Ends the session there and forgets it here, also if it has ended already."""
    try:
        async with signed_in(gateway, sessions) as client:
            await client.call(client.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    except SignInFirstError:
        pass
    await sessions.forget(gateway)


@asynccontextmanager
async def signed_in(gateway: Gateway, sessions: Sessions) -> AsyncIterator[Client]:
    """A client as who is signed in there; refusals become words."""
    async with client_of(gateway) as client:
        stub: Any = client.stub(auth_rpc.AuthServiceStub)
        used = ""

        async def exchange(session: Session) -> Session:
            return _session(gateway, session.email, await refresh(stub, session.session_token))

        async def renew() -> tuple[str, Timestamp]:
            nonlocal used
            # What this process was given before it asks for another has been refused, or is about to end.
            session = await sessions.current(gateway, exchange, other_than=used)
            used = session.access_token
            ends = Timestamp()
            ends.FromDatetime(datetime.fromtimestamp(session.access_token_ends_at, UTC))
            return used, ends

        client.use_tokens(renew)
        with in_words(gateway):
            yield client


async def access_token(gateway: Gateway, sessions: Sessions) -> Session:
    """The session with an access token that is good for a minute at least."""
    async with signed_in(gateway, sessions) as client:
        await client.metadata()
    session = sessions.find(gateway)
    if session is None:
        raise SignInFirstError(f"nobody is signed in at {gateway.url} any more; guildhall login")
    return session


def _session(gateway: Gateway, email: str, tokens: auth.SessionTokens) -> Session:
    ends_at = tokens.access_token_expire_time.ToDatetime(tzinfo=UTC).timestamp()
    return Session(gateway, email, tokens.session_token, tokens.access_token, ends_at)


def _token_in(text: str) -> str:
    """The token of a link, or what is itself one."""
    found = parse_qs(urlsplit(text.strip()).query).get("token")
    return found[0] if found else text.strip()


def _device() -> str:
    return f"guildhall on {socket.gethostname()}"[:100]
