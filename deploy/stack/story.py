"""The story that `guildhall demo` plays: the suite's main job, through the gateway only, each call printed.

Every step checks what came back. `play` is true only if all of them held.
"""

import contextlib
import email
import email.policy
import json
import queue
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc
from google.rpc import error_details_pb2, status_pb2
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invites_rpc
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.guest.v1 import guest_service_pb2_grpc as guests_rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from rich.console import Console

PASSWORD = "correct horse battery staple"  # noqa: S105 - of people who live as long as the demo
GUEST_SECONDS = 4
SECRETS = {"password", "token", "session_token", "access_token", "url"}
WAIT_SECONDS = 15


class StepFailedError(Exception):
    """What did not hold."""


class Person:
    """Somebody at the gateway. Before they sign in, their calls carry no token."""

    def __init__(self, name: str, channel: grpc.Channel, console: Console) -> None:
        self.name = name
        self.email = f"{name.lower()}@example.com"
        self.token = ""
        self._channel = channel
        self._console = console

    def call(self, stub: Any, method: str, request: Any) -> Any:
        """Makes a call and prints it with its answer; a refusal raises grpc.RpcError after it is printed."""
        say(self._console, f"  [bold]{self.name}[/] → {method} [dim]{brief(request)}[/]")
        try:
            answer = getattr(stub(self._channel), method)(request, timeout=10, metadata=self._metadata())
        except grpc.RpcError as error:
            say(self._console, f"      ← [yellow]{error.code().name} {reason_of(error)}[/] {error.details()}")
            raise
        say(self._console, f"      ← [green]OK[/] [dim]{brief(answer)}[/]")
        return answer

    def refused(self, stub: Any, method: str, request: Any) -> tuple[str, str]:
        """Makes a call that must be refused; returns its code and reason."""
        try:
            self.call(stub, method, request)
        except grpc.RpcError as error:
            return error.code().name, reason_of(error)
        raise StepFailedError(f"{method} was to be refused")

    def subscribe(self, workspace_id: str) -> "Stream":
        """Opens a stream of live events and waits until it is open."""
        say(self._console, f"  [bold]{self.name}[/] → Subscribe")
        call = events_rpc.EventServiceStub(self._channel).Subscribe(
            events.SubscribeRequest(workspace_id=workspace_id), metadata=self._metadata()
        )
        return Stream(self.name, call, self._console)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


class Stream:
    """An open Subscribe, read by a thread of its own."""

    def __init__(self, name: str, call: Any, console: Console) -> None:
        self._name = name
        self._call = call
        self._console = console
        self._frames: queue.Queue[events.SubscribeResponse | grpc.RpcError | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        check(self._next().HasField("opened"), "the stream's first frame says where it starts")

    def _read(self) -> None:
        try:
            for frame in self._call:
                self._frames.put(frame)
            self._frames.put(None)
        except grpc.RpcError as error:
            self._frames.put(error)

    def _next(self) -> events.SubscribeResponse:
        try:
            frame = self._frames.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise StepFailedError(f"nothing came on {self._name}'s stream in {WAIT_SECONDS} s") from None
        if not isinstance(frame, events.SubscribeResponse):
            raise StepFailedError(f"{self._name}'s stream is over: {frame}")
        return frame

    def message(self) -> messages.Message:
        """The next message on the stream."""
        while True:
            frame = self._next()
            for event in frame.events.events:
                if event.HasField("message_created"):
                    text = event.message_created.text
                    say(self._console, f"      [cyan]⚡ {self._name} receives[/] “{text}”")
                    return event.message_created

    def end(self) -> str:
        """The reason with which the stream ends."""
        while not (frame := self._next()).HasField("end"):
            pass
        reason = events.StreamEndReason.Name(frame.end.reason)
        say(self._console, f"      [cyan]⚡ {self._name}'s stream ends:[/] {reason}")
        return reason

    def close(self) -> None:
        """Hangs up."""
        self._call.cancel()


class Story:
    """The cast, and what they have made so far."""

    def __init__(self, channel: grpc.Channel, address: str, mail_dir: Path, console: Console) -> None:
        self.address = address
        self.mail_dir = mail_dir
        self.console = console
        self.ada, self.ben, self.gus = (Person(name, channel, console) for name in ("Ada", "Ben", "Gus"))
        self.workspace_id = ""
        self.ben_member_id = ""
        self.general = self.project = ""

    def sign_up(self, person: Person) -> None:
        """Signs up, verifies by the mailed token, signs in."""
        request = auth.SignUpRequest(email=person.email, password=PASSWORD, name=person.name, request_id=key())
        person.call(auth_rpc.AuthServiceStub, "SignUp", request)
        token = self.mailed_token(person.email)
        person.call(auth_rpc.AuthServiceStub, "VerifyEmail", auth.VerifyEmailRequest(token=token))
        answer = person.call(
            auth_rpc.AuthServiceStub, "SignIn", auth.SignInRequest(email=person.email, password=PASSWORD)
        )
        person.token = answer.tokens.access_token

    def mailed_token(self, address: str) -> str:
        """The token of the latest mail to an address, once it is written; the mail is then taken out of the box."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            for path in sorted(self.mail_dir.glob("*.eml"), reverse=True):
                mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                body = mail.get_body(("plain",))
                found = re.search(r"Token: (\S+)", body.get_content()) if body else None
                if mail["To"] == address and found:
                    say(self.console, f"      [cyan]✉ to {address}:[/] {mail['Subject']}")
                    path.unlink()
                    return found[1]
            time.sleep(0.05)
        raise StepFailedError(f"no mail to {address} in {self.mail_dir}")

    def post(self, person: Person, conversation_id: str, text: str) -> messages.Message:
        """Sends a message."""
        answer = person.call(messages_rpc.MessageServiceStub, "SendMessage", self._send(conversation_id, text))
        return cast(messages.SendMessageResponse, answer).message

    def refused_post(self, person: Person, conversation_id: str) -> tuple[str, str]:
        """Sends a message that must be refused."""
        return person.refused(messages_rpc.MessageServiceStub, "SendMessage", self._send(conversation_id, "…"))

    def _send(self, conversation_id: str, text: str) -> messages.SendMessageRequest:
        return messages.SendMessageRequest(
            workspace_id=self.workspace_id, conversation_id=conversation_id, client_message_id=key(), text=text
        )

    def history(self, person: Person) -> list[str]:
        """The project channel's texts, newest first."""
        request = messages.ListMessagesRequest(workspace_id=self.workspace_id, conversation_id=self.project)
        answer = person.call(messages_rpc.MessageServiceStub, "ListMessages", request)
        return [message.text for message in answer.messages]

    def channels(self, person: Person) -> list[str]:
        """The names of the conversations that somebody sees."""
        request = conversations.ListConversationsRequest(workspace_id=self.workspace_id)
        answer = person.call(conversations_rpc.ConversationServiceStub, "ListConversations", request)
        return [conversation.name for conversation in answer.conversations]

    # The acts, in their order.

    def founding(self) -> None:
        """Ada signs up and makes a workspace with two channels."""
        self.sign_up(self.ada)
        request = workspaces.CreateWorkspaceRequest(name="Analytical Engines", request_id=key())
        made = self.ada.call(workspaces_rpc.WorkspaceServiceStub, "CreateWorkspace", request)
        check(made.member.role == members.ROLE_ADMIN, "who makes a workspace is its admin")
        self.workspace_id = made.workspace.workspace_id
        self.general, self.project = (self._channel(name) for name in ("general", "project-x"))

    def _channel(self, name: str) -> str:
        request = conversations.CreateChannelRequest(
            workspace_id=self.workspace_id, name=name, visibility=conversations.VISIBILITY_PUBLIC, request_id=key()
        )
        answer = self.ada.call(conversations_rpc.ConversationServiceStub, "CreateChannel", request)
        return str(answer.conversation.conversation_id)

    def inviting(self) -> None:
        """Ada invites Ben by e-mail; Ben signs up and accepts."""
        request = invitations.CreateInvitationRequest(
            workspace_id=self.workspace_id, email=self.ben.email, role=members.ROLE_MEMBER, request_id=key()
        )
        self.ada.call(invitations_rpc.InvitationServiceStub, "CreateInvitation", request)
        token = self.mailed_token(self.ben.email)
        self.sign_up(self.ben)
        accept = invitations.AcceptInvitationRequest(token=token, request_id=key())
        joined = self.ben.call(invitations_rpc.InvitationServiceStub, "AcceptInvitation", accept)
        self.ben_member_id = joined.member.member_id
        listed = self.ada.call(
            members_rpc.MemberServiceStub, "ListMembers", members.ListMembersRequest(workspace_id=self.workspace_id)
        )
        check([member.name for member in listed.members] == ["Ada", "Ben"], "Ada and Ben are the members")

    def talking(self, ada_hears: Stream) -> None:
        """Ben posts, Ada receives it live; the same channel list comes as JSON."""
        sent = self.post(self.ben, self.project, "Note G is done.")
        check(ada_hears.message() == sent, "the stream carries the message as it was stored")
        url = f"http://{self.address}/v1/workspaces/{self.workspace_id}/conversations"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.ben.token}"})
        say(self.console, f"  [bold]Ben[/] → GET {url.replace(self.workspace_id, '…')}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            names = [conversation["name"] for conversation in json.load(answer)["conversations"]]
        say(self.console, f"      ← [green]200[/] [dim]{names}[/]")
        check(names == ["general", "project-x"], "the JSON list shows both channels")

    def guest_comes(self, ada_hears: Stream) -> guests.Guest:
        """Ada makes a guest link for one channel; Gus redeems it, sees that channel only, and posts."""
        request = invites.CreateGuestInviteRequest(
            workspace_id=self.workspace_id, conversation_ids=[self.project], max_uses=1, request_id=key()
        )
        request.guest_ttl.seconds = GUEST_SECONDS
        link = self.ada.call(invites_rpc.GuestInviteServiceStub, "CreateGuestInvite", request)
        self.sign_up(self.gus)
        redeem = invites.RedeemGuestInviteRequest(token=link.token, request_id=key())
        redeemed = self.gus.call(invites_rpc.GuestInviteServiceStub, "RedeemGuestInvite", redeem)
        check(self.channels(self.gus) == ["project-x"], "the guest sees the granted channel only")
        check(self.refused_post(self.gus, self.general)[0] == "NOT_FOUND", "the other channel does not exist for them")
        self.post(self.gus, self.project, "Hello from outside.")
        check(ada_hears.message().text == "Hello from outside.", "Ada hears the guest")
        return cast(invites.RedeemGuestInviteResponse, redeemed).guest

    def guest_expires(self, guest: guests.Guest) -> None:
        """The guest's time passes: from that instant on posting is refused, while reading works."""
        expiry = guest.expire_time.ToDatetime(UTC)
        say(self.console, f"  … until {expiry:%H:%M:%S.%f} Gus goes on posting")
        quiet = Person("Gus", self.gus._channel, Console(quiet=True))
        quiet.token = self.gus.token
        accepted = 0
        while datetime.now(UTC) < expiry or accepted == 0:
            try:
                stored = self.post(quiet, self.project, f"Still here ({accepted}).").create_time.ToDatetime(UTC)
            except grpc.RpcError:
                check(datetime.now(UTC) >= expiry, "nothing is refused before the expiry")
                break
            check(stored < expiry, "nothing is stored at or after the expiry")
            accepted += 1
            time.sleep(0.05)
        say(self.console, f"      ← {accepted} accepted, all before that instant")
        refusal = self.refused_post(self.gus, self.project)
        check(refusal == ("PERMISSION_DENIED", "GUEST_LOCKED"), "posting is refused with GUEST_LOCKED")
        check(any("Still here" in text for text in self.history(self.gus)), "reading still works")

    def guest_returns(self, guest: guests.Guest) -> None:
        """Ada extends the guest, who posts again."""
        request = guests.ExtendGuestRequest(workspace_id=self.workspace_id, member_id=guest.member_id, request_id=key())
        request.expire_time.FromDatetime(datetime.fromtimestamp(time.time() + 3600, UTC))
        extended = self.ada.call(guests_rpc.GuestServiceStub, "ExtendGuest", request).guest
        check(extended.state == guests.GUEST_STATE_ACTIVE, "the extension unlocks at once")
        self.post(self.gus, self.project, "Back again.")

    def member_goes(self) -> None:
        """Ben is removed: his open stream ends with a reason, and his next call finds nothing."""
        ben_hears = self.ben.subscribe(self.workspace_id)
        request = members.RemoveMemberRequest(
            workspace_id=self.workspace_id, member_id=self.ben_member_id, request_id=key()
        )
        self.ada.call(members_rpc.MemberServiceStub, "RemoveMember", request)
        self.post(self.ada, self.general, "Ben must not see this.")
        check(ben_hears.end() == "STREAM_END_REASON_ACCESS_ENDED", "the stream ends because access has ended")
        look = conversations.ListConversationsRequest(workspace_id=self.workspace_id)
        refusal = self.ben.refused(conversations_rpc.ConversationServiceStub, "ListConversations", look)
        check(refusal[0] == "NOT_FOUND", "for Ben there is no such workspace any more")


def play(gateway_address: str, mail_dir: Path, console: Console) -> bool:
    """Plays the story against a running suite; true if every step held."""
    with grpc.insecure_channel(gateway_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        story = Story(channel, gateway_address, mail_dir, console)
        try:
            with act(console, "Ada founds a workspace"):
                story.founding()
            with act(console, "Ada invites Ben, who signs up and accepts"):
                story.inviting()
            ada_hears = story.ada.subscribe(story.workspace_id)
            with act(console, "Ben posts, and Ada receives it live"):
                story.talking(ada_hears)
            with act(console, "Gus comes in by a guest link and sees one channel"):
                guest = story.guest_comes(ada_hears)
            with act(console, "Gus's time passes: refused at that instant, reading still works"):
                story.guest_expires(guest)
            with act(console, "Ada extends Gus, who posts again"):
                story.guest_returns(guest)
            with act(console, "Ben is removed: his stream ends, and he finds nothing"):
                story.member_goes()
            ada_hears.close()
        except (StepFailedError, grpc.RpcError, OSError) as error:
            console.print(f"[red]✗ {error if isinstance(error, StepFailedError) else repr(error)}[/]", markup=True)
            return False
    console.print("[bold green]Every step held.[/]")
    return True


@contextlib.contextmanager
def act(console: Console, title: str) -> Iterator[None]:
    """One act, with its title before it."""
    console.print(f"\n[bold]{title}[/]")
    yield


def say(console: Console, line: str) -> None:
    """Prints one line, cut where the terminal ends."""
    console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")


def check(held: bool, what: str) -> None:
    """Raises StepFailedError if it did not hold."""
    if not held:
        raise StepFailedError(f"did not hold: {what}")


def key() -> str:
    """A new idempotency key."""
    return str(uuid4())


def brief(message: Any) -> str:
    """A message on one line, secrets and long ids cut short."""
    parts = []
    for field, value in message.ListFields():
        if field.name in SECRETS:
            parts.append(f"{field.name}=…")
        elif field.message_type and field.is_repeated:
            parts.append(f"{field.name}×{len(value)}")
        elif field.message_type and field.message_type.name in ("Timestamp", "Duration"):
            parts.append(f"{field.name}={value.ToJsonString()}")
        elif field.message_type:
            parts.append(f"{field.name}({brief(value)})")
        elif field.enum_type and not field.is_repeated:
            parts.append(f"{field.name}={field.enum_type.values_by_number[value].name}")
        elif field.name not in ("request_id", "client_message_id", "etag"):
            short: Callable[[object], str] = lambda item: f"…{str(item)[-6:]}" if len(str(item)) == 36 else str(item)  # noqa: E731
            parts.append(f"{field.name}={','.join(map(short, value)) if field.is_repeated else short(value)}")
    return " ".join(parts)


def reason_of(error: Any) -> str:
    """The reason in a refusal, or an empty string."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
