"""The client: calls that are repeated while that helps, pages as one list, events as one stream."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message
from guildhall.client import credentials, uploads
from guildhall.client.credentials import EARLY_SECONDS, Credentials, Kept, Metadata, Renew, refused_token
from guildhall.client.errors import GuildhallError, TooMuch, Unavailable, error_of
from guildhall.client.subscriptions import Opened, Subscription
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import file_service_pb2 as files_pb

SECONDS = 10.0
"""For a call with all its repetitions, unless the caller says otherwise."""
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_OPTIONS = (
    # Longer than the server lets pass between two frames of a stream, and rarer than it minds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
)
_NO_TOKEN = grpc.aio.AioRpcError(
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.aio.Metadata(),
    grpc.aio.Metadata(),
    "No access token was to be had in time.",
)
_OWN_IDS = ("request_id", "client_message_id")

Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Item = TypeVar("Item")


class Rpc(Protocol[Request, Response]):
    """A unary method of a generated stub, made with `Client.stub`."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, metadata: Any = None
    ) -> "grpc.aio.UnaryUnaryCall[Request, Response]":
        """Calls it."""


class Client:
    """One caller at one gateway. It belongs to the event loop in which it was made.

    async with Client("127.0.0.1:8080") as client:
        await client.sign_in("ada@example.com", password)
        workspaces = client.stub(WorkspaceServiceStub)
        made = await client.call(workspaces.CreateWorkspace, CreateWorkspaceRequest(name="Engines"))
    """

    def __init__(
        self,
        target: str,
        *,
        channel_credentials: grpc.ChannelCredentials | None = None,
        early_seconds: float = EARLY_SECONDS,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """`target` is HOST:PORT. Without `channel_credentials` (`grpc.ssl_channel_credentials()`) nothing is encrypted.

        `early_seconds` before its end an access token is renewed.
        """
        every = [*_OPTIONS, *options]
        if channel_credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=every)
        else:
            self._channel = grpc.aio.secure_channel(target, channel_credentials, options=every)
        self._early_seconds = early_seconds
        self._stubs: dict[type[Any], Any] = {}
        self._credentials: Credentials | None = None
        self._under_way: list[uploads.Announced] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way. The session stays: `SignOut` ends it.

        A token that is being renewed is waited for, 10 s at most: else the session would be lost to a later `resume`.
        """
        if self._credentials is not None:
            await self._credentials.settle()
        await self._channel.close()

    async def sign_in(
        self, email: str, password: str, *, kept: Kept | None = None, device_label: str = ""
    ) -> auth.SignInResponse:
        """Starts a session, which goes on by itself.

        `kept` is given each session token, for `resume` in a later process.

        Errors: NotSignedIn (INVALID_CREDENTIALS), Conflict (EMAIL_UNVERIFIED), TooMuch (SIGN_IN_LIMITED).
        """
        request = auth.SignInRequest(email=email, password=password, device_label=device_label)
        answer: auth.SignInResponse = await self._call(self._auth.SignIn, request, SECONDS, with_token=False)
        tokens = answer.tokens
        if kept:
            await kept(tokens.session_token)
        self.resume(tokens.session_token, kept=kept).accept(tokens.access_token, tokens.access_token_expire_time)
        return answer

    def resume(self, session_token: str, *, kept: Kept | None = None) -> Credentials:
        """Goes on with a session. Whether it is alive shows at the first call."""
        self._credentials = made = credentials.of_session(
            self._auth, session_token, kept=kept, early_seconds=self._early_seconds
        )
        return made

    def use_service_key(self, key: str) -> None:
        """Calls as a service account. Whether the key is good shows at the first call."""
        self._credentials = credentials.of_service_key(self._auth, key, early_seconds=self._early_seconds)

    def use_tokens(self, renew: Renew) -> None:
        """Calls with the access tokens that `renew` returns, each with the time at which it ends.

        For a session that several processes share: a session token is used up by its first exchange, so they must take
        turns, which `renew` sees to. Errors of its own calls may be AioRpcError.
        """
        self._credentials = Credentials(renew, early_seconds=self._early_seconds)

    def stub(self, stub_class: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """A generated stub on this client's channel, for `call`, `pages` and streams of one's own."""
        made = self._stubs.get(stub_class)  # type: ignore[call-overload]
        if made is None:
            made = self._stubs[stub_class] = stub_class(self._channel)  # type: ignore[index]
        return made  # type: ignore[no-any-return]

    async def call(self, rpc: Rpc[Request, Response], request: Request, *, seconds: float = SECONDS) -> Response:
        """Calls a unary RPC, and again while it is unavailable and `seconds` last.

        An empty `request_id` or `client_message_id` is filled in first, so that a repetition has no second effect.
        Errors: GuildhallError.
        """
        answer: Response = await self._call(rpc, request, seconds, with_token=self._credentials is not None)
        return answer

    async def pages(
        self, rpc: Rpc[Request, Response], request: Request, items: Callable[[Response], Iterable[Item]]
    ) -> AsyncGenerator[Item, None]:
        """The items of all pages of a list, from where `request` stands.

        async for member in client.pages(members.ListMembers, request, lambda page: page.members): ...
        """
        asked = type(request)()
        asked.CopyFrom(request)
        while True:
            page: Any = await self.call(rpc, asked)
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token  # type: ignore[attr-defined]

    async def upload(
        self,
        workspace_id: str,
        conversation_id: str,
        path: Path,
        *,
        name: str = "",
        mime_type: str = "",
        reuse: bool = False,
        progress: uploads.Progress | None = None,
    ) -> files_pb.File:
        """Uploads a file to a conversation, for a message to hold (`file_ids`); returns it when all of it is stored.

        Broken connections are gone on after. So is what an earlier call began and did not end: a file of the same name,
        type and content; not what another call of this client is sending just now. `reuse` also takes one that is
        complete and that no message holds: for a command that may be run again, whoever it was uploaded for.
        Without a `mime_type` the name says which.
        Errors: GuildhallError, OSError, FileChangedError (it became shorter meanwhile).
        """
        return await uploads.upload(
            self,
            (workspace_id, conversation_id),
            path,
            name=name,
            mime_type=mime_type,
            reuse=reuse,
            progress=progress,
            under_way=self._under_way,
        )

    async def events(
        self, workspace_id: str, *, positions: Mapping[str, int] | None = None, opened: Opened | None = None
    ) -> AsyncGenerator[events_pb.Event, None]:
        """What happens in a workspace, for as long as the caller may see it; over reconnections, each event once.

        `positions` is the last event_seq seen of each conversation, to go on after a restart. Of one that is not in it
        a `conversation_gained` event tells; without any, all begin with what is new. A `reset` event says that events
        of a conversation are not to be had any more: read it anew. `opened` is told each time that a stream stands,
        with the position of each conversation, but for those that events tell were gained.
        Errors: NotSignedIn, NotFound (no member, or no longer).
        """
        subscription = Subscription(self._channel, workspace_id, positions=positions or {}, opened=opened)
        pause, other_than = _FIRST_PAUSE_SECONDS, ""
        metadata: Metadata = ()
        while True:
            try:
                metadata = await self.metadata(other_than=other_than)
                async with aclosing(subscription.follow(metadata)) as stream:
                    async for event in stream:
                        pause = _FIRST_PAUSE_SECONDS
                        yield event
                        subscription.note(event)
                # Ended by the server in peace. Where that was for want of a session or of access, the next is refused.
                other_than = ""
                continue
            except grpc.aio.AioRpcError as error:
                refused = error_of(error)
                if not other_than and (other_than := refused_token(refused, metadata)):
                    continue
                other_than = ""
            except GuildhallError as error:
                # Of a token that could not be renewed: as good a reason to wait as a broken stream.
                refused = error
            if not _is_worth_waiting(refused, subscription):
                raise refused
            await asyncio.sleep(refused.retry_after_seconds or pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    @property
    def _auth(self) -> Any:
        return self.stub(auth_rpc.AuthServiceStub)

    async def metadata(self, *, other_than: str = "", seconds: float | None = None) -> Metadata:
        """The headers for a call that is made without `call`, such as a stream of one's own.

        `other_than` is a token that was refused, `seconds` how long to wait for another. Errors: GuildhallError.
        """
        if self._credentials is None:
            return ()
        try:
            async with asyncio.timeout(seconds):
                token = await self._credentials.token(other_than=other_than)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except TimeoutError as error:
            raise Unavailable(_NO_TOKEN) from error
        return (("authorization", f"Bearer {token}"),)

    async def _call(self, rpc: Any, request: Any, seconds: float, *, with_token: bool) -> Any:
        deadline = time.monotonic() + seconds
        request = _with_own_ids(request)
        pause = _FIRST_PAUSE_SECONDS
        other_than = ""
        metadata: Metadata = ()
        while True:
            left = max(deadline - time.monotonic(), 0.05)
            try:
                if with_token:
                    metadata = await self.metadata(other_than=other_than, seconds=left)
                    left = max(deadline - time.monotonic(), 0.05)
                return await rpc(request, timeout=left, metadata=metadata)
            except GuildhallError as error:
                # Of a token that could not be renewed, not even in a few tries: as good a reason to come back.
                refused, cause = error, error.__cause__
                pause_now = pause if isinstance(refused, Unavailable) else _pause(refused, pause)
            except grpc.aio.AioRpcError as error:
                refused, cause = error_of(error), error
                if not other_than and (other_than := refused_token(refused, metadata)):
                    continue
                pause_now = _pause(refused, pause)
            if pause_now is None or time.monotonic() + pause_now >= deadline:
                raise refused from cause
            await asyncio.sleep(pause_now)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _is_worth_waiting(refused: GuildhallError, subscription: Subscription) -> bool:
    if isinstance(refused, TooMuch):
        # Of too many streams, one may be the last of this subscription, whose end has not been noticed yet.
        return refused.reason == "OVERLOADED" or subscription.was_open
    return isinstance(refused, Unavailable)


def _pause(refused: GuildhallError, pause: float) -> float | None:
    """How long to wait before the call is repeated; None if that would not help."""
    if isinstance(refused, Unavailable) and refused.code != grpc.StatusCode.DEADLINE_EXCEEDED:
        return max(refused.retry_after_seconds or 0.0, pause * random.uniform(0.5, 1.0))
    if isinstance(refused, TooMuch) and refused.reason == "OVERLOADED":
        return max(refused.retry_after_seconds or 0.0, pause) * random.uniform(1.0, 1.5)
    return None


def _with_own_ids(request: Any) -> Any:
    """The request with what makes it repeatable."""
    fields = request.DESCRIPTOR.fields_by_name
    empty = [name for name in _OWN_IDS if name in fields and not getattr(request, name)]
    if not empty:
        return request
    made = type(request)()
    made.CopyFrom(request)
    for name in empty:
        setattr(made, name, str(uuid.uuid4()))
    return made
