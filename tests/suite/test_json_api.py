"""The JSON API of a real suite, called as its OpenAPI document says: what it sends fits, and so do all the answers."""

import base64
import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import pytest

from tests.suite.conftest import Running
from tests.support.json_api import JsonApi, mailed_token

PASSWORD = "a long enough password"
CHUNK_BYTES = 262_144


def key() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class World:
    """Ada's workspace with a channel; Ben is a member of it. All of it was made by JSON."""

    api: JsonApi
    running: Running
    ada: str
    ben: str
    ada_member: str
    ben_member: str
    workspace: str
    channel: str

    @property
    def place(self) -> dict[str, str]:
        return {"workspaceId": self.workspace}

    @property
    def conversation(self) -> dict[str, str]:
        return {**self.place, "conversationId": self.channel}

    def say(self, text: str, **more: Any) -> Any:
        values = {**self.conversation, "clientMessageId": key(), "text": text, **more}
        return self.api.call("MessageService_SendMessage", values, token=self.ada)["message"]


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{running.gateway}", trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> JsonApi:
    return JsonApi(client.get("/openapi.json").json(), client)


def arrive(api: JsonApi, running: Running, name: str) -> tuple[str, str]:
    """Signs somebody up, proves their address, signs them in: their address and access token."""
    address = f"{name}.{uuid.uuid4().hex[:8]}@example.com"
    signing_up = {"email": address, "password": PASSWORD, "name": name, "requestId": key()}
    api.call("AuthService_SignUp", signing_up)
    token = mailed_token(running.settings.layout.mail, address, "prove that the address is yours")
    api.call("AuthService_VerifyEmail", {"token": token, "requestId": key()})
    signed_in = api.call("AuthService_SignIn", {"email": address, "password": PASSWORD, "deviceLabel": "test"})
    tokens = signed_in["tokens"]
    refreshed = api.call("AuthService_RefreshSession", {"sessionToken": tokens["sessionToken"]})
    return address, refreshed["tokens"]["accessToken"]


@pytest.fixture(scope="module")
def world(running: Running, api: JsonApi) -> World:
    _, ada = arrive(api, running, "Ada")
    ben_address, ben = arrive(api, running, "Ben")
    made = api.call("WorkspaceService_CreateWorkspace", {"name": "By JSON", "requestId": key()}, token=ada)
    place = {"workspaceId": made["workspace"]["workspaceId"]}
    invitation = {**place, "email": ben_address, "role": "ROLE_MEMBER", "requestId": key()}
    api.call("InvitationService_CreateInvitation", invitation, token=ada)
    invited = {"token": mailed_token(running.settings.layout.mail, ben_address, "invited to join")}
    api.call("InvitationService_PreviewInvitation", invited)
    joined = api.call("InvitationService_AcceptInvitation", invited, token=ben)
    channel = {**place, "name": "general", "visibility": "VISIBILITY_PUBLIC", "topic": "all", "requestId": key()}
    opened = api.call("ConversationService_CreateChannel", channel, token=ada)
    return World(
        api=api,
        running=running,
        ada=ada,
        ben=ben,
        ada_member=made["member"]["memberId"],
        ben_member=joined["member"]["memberId"],
        workspace=place["workspaceId"],
        channel=opened["conversation"]["conversationId"],
    )


def read(world: World, *names: str, values: dict[str, Any] | None = None) -> list[Any]:
    """The answers of several calls of Ada's that take the same values."""
    return [world.api.call(name, values, token=world.ada) for name in names]


def test_people_and_their_sessions(world: World) -> None:
    user, session, *_ = read(
        world,
        *("UserService_GetUser", "SessionService_GetCurrentSession", "SessionService_ListSessions"),
        *("SessionService_ListSecurityEvents", "AccountService_ListAccounts", "AuthService_GetJwks"),
    )
    assert user["user"]["name"] == "Ada"
    assert session["session"]
    renaming = {"updateMask": "name,imageUrl", "name": "Ada L.", "imageUrl": "https://example.com/a.png"}
    renamed = world.api.call("UserService_UpdateUser", renaming, token=world.ada)["user"]
    assert (renamed["name"], renamed["imageUrl"]) == ("Ada L.", "https://example.com/a.png")


def test_workspaces_and_their_members(world: World) -> None:
    read(world, "WorkspaceService_ListWorkspaces", values={"pageSize": 10})
    [got, listed, *_] = read(
        world,
        *("WorkspaceService_GetWorkspace", "MemberService_ListMembers", "InvitationService_ListInvitations"),
        *("RoleSchemeService_ListRoleSchemes", "ActivityService_ListActivities", "ActivityService_VerifyActivityChain"),
        values=world.place,
    )
    assert {member["memberId"] for member in listed["members"]} == {world.ada_member, world.ben_member}
    change = {
        **world.place,
        "workspace": {"name": "Renamed", "messageEditWindow": "3600s", "etag": got["workspace"]["etag"]},
        "updateMask": "name,messageEditWindow",
    }
    changed = world.api.call("WorkspaceService_UpdateWorkspace", change, token=world.ada)["workspace"]
    assert (changed["name"], changed["messageEditWindow"]) == ("Renamed", "3600s")
    member = {**world.place, "memberId": world.ben_member}
    read(world, "MemberService_GetMember", values=member)
    titled = {**member, "member": {"title": "Engineer"}, "updateMask": "title"}
    assert world.api.call("MemberService_UpdateMember", titled, token=world.ben)["member"]["title"] == "Engineer"


def test_a_nested_message_and_times_in_a_query(world: World) -> None:
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    actions = ["workspace.created", "member.joined"]
    values = {
        **world.place,
        "filter.startTime": (now - hour).isoformat(),
        "filter.endTime": (now + hour).isoformat(),
        "filter.actions": actions,
        "filter.outcome": "ACTIVITY_OUTCOME_DONE",
    }
    [listed] = read(world, "ActivityService_ListActivities", values=values)
    values = {**world.place, "filter.startTime": (now + hour).isoformat()}
    [later] = read(world, "ActivityService_ListActivities", values=values)
    assert {activity["action"] for activity in listed["activities"]} <= set(actions)
    assert listed["activities"]
    assert not later.get("activities")


def test_groups_roles_and_access(world: World) -> None:
    group = world.api.call("GroupService_CreateGroup", {**world.place, "name": "Engines"}, token=world.ada)["group"]
    inside = {**world.place, "groupId": group["groupId"]}
    read(world, "GroupService_GetGroup", "GroupMemberService_ListGroupMembers", values=inside)
    read(world, "GroupService_ListGroups", values=world.place)
    handles = {**world.place, "handle": f"h{uuid.uuid4().hex[:8]}", "name": "Engineers"}
    made = world.api.call("UserGroupService_CreateUserGroup", handles, token=world.ada)["userGroup"]
    filling = {**world.place, "userGroupId": made["userGroupId"], "memberIds": [world.ada_member, world.ben_member]}
    world.api.call("UserGroupService_SetUserGroupMembers", filling, token=world.ada)
    read(world, "UserGroupService_ListUserGroups", values=world.place)
    asked = {**world.place, "memberId": world.ben_member, "capability": "messages.send"}
    read(world, "AccessService_CheckAccess", "AccessService_ExplainAccess", values=asked)
    mentions = {**world.conversation, "handles": [handles["handle"], "here", "nobody"]}
    [resolved] = read(world, "MessageService_ResolveMentions", values=mentions)
    assert len(resolved["mentions"]) == 3


def test_messages_with_everything_on_them(world: World) -> None:
    first = world.say("Note G is done.", mentions={"memberIds": [world.ben_member]})
    at = {**world.conversation, "messageId": first["messageId"]}
    assert isinstance(first["seq"], str)  # 64 bits
    world.api.call("MessageService_EditMessage", {**at, "text": "Note G is done!"}, token=world.ada)
    world.api.call("ReactionService_AddReaction", {**at, "emoji": "👍"}, token=world.ben)
    read(
        world,
        *("MessageService_GetMessage", "MessageService_ListMessageRevisions", "ReactionService_ListReactions"),
        values=at,
    )
    payload = {"ciphertext": base64.b64encode(b"\xff\xfe secret").decode(), "scheme": "box", "header": "AAEC"}
    sealed = world.api.call(
        "MessageService_SendMessage",
        {**world.conversation, "clientMessageId": key(), "encrypted": payload, "replyToMessageId": first["messageId"]},
        token=world.ada,
    )["message"]
    assert sealed["encrypted"] == payload
    world.api.call("ReadStateService_MarkRead", {**world.conversation, "seq": sealed["seq"]}, token=world.ben)
    read(
        world,
        *("MessageService_ListMessages", "ReadStateService_ListReadStates", "ConversationService_GetConversation"),
        "ConversationService_ListParticipants",
        values=world.conversation,
    )
    gone = {**world.conversation, "messageId": sealed["messageId"], "etag": sealed["etag"]}
    [tombstone] = read(world, "MessageService_DeleteMessage", values=gone)
    assert "encrypted" not in tombstone["message"]


def wait_until_found(world: World, values: dict[str, Any], message_id: str) -> None:
    """Searches until the message is found: its entry is made a moment after it is sent."""
    deadline = time.monotonic() + 30
    while True:
        [found] = read(world, "MessageService_SearchMessages", values=values)
        if message_id in {message["messageId"] for message in found.get("messages", ())}:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_searching_by_a_list_a_boolean_and_a_time(world: World) -> None:
    sent = world.say("What the hummingbird said")
    values = {
        **world.place,
        "conversationIds": [world.channel, key()],
        "sentAfter": sent["createTime"],
        "senderUserId": sent["senderUserId"],
        "hasFile": False,
    }
    wait_until_found(world, values, sent["messageId"])
    [none] = read(world, "MessageService_SearchMessages", values={**values, "sentAfter": "2999-01-01T00:00:00Z"})
    assert not none.get("messages")


def test_a_file_in_chunks(world: World) -> None:
    data = bytes(range(256)) * 1026
    announced = {
        **world.conversation,
        "name": "bytes.bin",
        "mimeType": "application/octet-stream",
        "sizeBytes": str(len(data)),
        "sha256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
    }
    file = world.api.call("FileService_CreateUpload", announced, token=world.ada)["file"]
    at = {**world.place, "fileId": file["fileId"]}
    for offset in range(0, len(data), CHUNK_BYTES):
        part = data[offset : offset + CHUNK_BYTES]
        chunk = {**at, "offset": str(offset), "data": base64.b64encode(part).decode()}
        done = world.api.call("FileService_UploadChunk", chunk, token=world.ada)
    assert done["receivedBytes"] == str(len(data))
    assert done["file"]["sha256"] == announced["sha256"]
    world.say("With a file", fileIds=[file["fileId"]])
    read(world, "FileService_GetFile", "FileService_GetUpload", values=at)
    read(world, "FileService_ListFiles", values=world.conversation)


def test_a_guest_comes_by_a_link(world: World) -> None:
    _, gus = arrive(world.api, world.running, "Gus")
    asked = {**world.place, "conversationIds": [world.channel], "guestTtl": "3600s", "inviteTtl": "600s", "maxUses": 1}
    link = world.api.call("GuestInviteService_CreateGuestInvite", asked, token=world.ada)
    world.api.call("GuestInviteService_PreviewGuestInvite", {"token": link["token"]})
    guest = world.api.call("GuestInviteService_RedeemGuestInvite", {"token": link["token"]}, token=gus)["guest"]
    at = {**world.place, "memberId": guest["memberId"]}
    read(world, "GuestService_GetGuest", values=at)
    read(world, "GuestService_ExplainVisibility", values={**at, "subjectMemberId": world.ben_member})
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    world.api.call("GuestService_ExtendGuest", {**at, "expireTime": later}, token=world.ada)
    read(
        world,
        *("GuestService_ListGuests", "GuestService_GetGuestPolicy", "GuestInviteService_ListGuestInvites"),
        "ConversationService_ListConversations",
        values=world.place,
    )
    world.api.call("GuestService_ListVisibleMembers", world.place, token=gus)
    policy = {**world.place, "policy": {"noticeDays": [7, 1]}, "updateMask": "noticeDays"}
    changed = world.api.call("GuestService_UpdateGuestPolicy", policy, token=world.ada)["policy"]
    assert sorted(changed["noticeDays"]) == [1, 7]


def test_a_back_end_with_a_service_account(world: World) -> None:
    def admin(*arguments: str) -> str:
        done = world.running.guildhall("admin", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    account = admin("create-service-account", "json", "--scope", "identity.adapter")
    service_key = admin("create-service-key", account)
    token = world.api.call("AuthService_ExchangeServiceKey", {"serviceKey": service_key})["accessToken"]
    address = f"olga.{uuid.uuid4().hex[:8]}@example.com"
    user = world.api.call("AdapterService_CreateUser", {"email": address, "name": "Olga"}, token=token)["user"]
    linking = {
        "userId": user["id"],
        "type": "oauth",
        "provider": "github",
        "providerAccountId": key(),
        "expiresAt": "1",
    }
    world.api.call("AdapterService_LinkAccount", {"account": linking}, token=token)
    world.api.call("AdapterService_GetUser", {"userId": user["id"]}, token=token)
    assert world.api.reason("UserService_GetUser", token=token, status=403) == "CALLER_NOT_ALLOWED"


def test_refusals_are_as_they_are_described(world: World) -> None:
    sending = {**world.conversation, "clientMessageId": key(), "text": "once"}
    world.api.call("MessageService_SendMessage", sending, token=world.ada)

    def reason(name: str, values: dict[str, Any], status: int, token: str = world.ada) -> str:
        return world.api.reason(name, values, token=token, status=status)

    assert reason("MessageService_SendMessage", {**sending, "text": "twice"}, 409) == "IDEMPOTENCY_MISMATCH"
    assert reason("MessageService_SendMessage", {**sending, "text": ""}, 400) == "INVALID_REQUEST"
    assert reason("MessageService_SendMessage", sending, 401, token="") == "UNAUTHENTICATED"
    assert reason("WorkspaceService_GetWorkspace", {"workspaceId": key()}, 404) == "NOT_FOUND"
    renaming = {**world.place, "workspace": {"name": "Ben's"}, "updateMask": "name"}
    assert reason("WorkspaceService_UpdateWorkspace", renaming, 403, token=world.ben) == "PERMISSION_DENIED"
    stale = {**world.place, "workspace": {"name": "x", "etag": "stale"}, "updateMask": "name"}
    assert reason("WorkspaceService_UpdateWorkspace", stale, 409) == "ETAG_MISMATCH"


def test_a_required_field_is_required(world: World) -> None:
    without = {**world.conversation, "text": "no id"}

    assert world.api.reason("MessageService_SendMessage", without, token=world.ada, status=400) == "INVALID_REQUEST"


def test_a_request_may_name_fields_as_the_contracts_do(world: World, client: httpx.Client) -> None:
    path = f"/v1/workspaces/{world.workspace}/conversations/{world.channel}/messages"
    headers = {"authorization": f"Bearer {world.ada}"}
    body = {"client_message_id": key(), "text": "by its other name"}
    sent = client.post(path, json=body, headers=headers).json()["message"]
    listed = client.get(path, params={"page_size": 1}, headers=headers).json()["messages"]

    assert sent["clientMessageId"] == body["client_message_id"]
    assert listed == [sent]


def test_what_the_path_names_holds_whatever_the_body_says(world: World, client: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {world.ada}"}
    path = f"/v1/workspaces/{world.workspace}"
    inner = {"workspace": {"name": "By its path", "workspaceId": key()}, "updateMask": "name"}
    outer = {"workspaceId": key(), "clientMessageId": key(), "text": "to the path's"}
    renamed = client.patch(path, json=inner, headers=headers)
    sent = client.post(f"{path}/conversations/{world.channel}/messages", json=outer, headers=headers)

    assert (renamed.status_code, sent.status_code) == (200, 200), renamed.text + sent.text
    assert renamed.json()["workspace"]["workspaceId"] == world.workspace
    assert sent.json()["message"]["workspaceId"] == world.workspace


def test_an_answer_with_an_unknown_field_would_be_found(world: World) -> None:
    [answer] = read(world, "WorkspaceService_GetWorkspace", values=world.place)
    reference = {"$ref": "#/components/schemas/membership.v1.GetWorkspaceResponse"}
    world.api.check(answer, reference)
    for broken in ({"work_space": {}}, {"workspace": {"createTime": 5}}, {"workspace": {"workspaceId": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            world.api.check(broken, reference)
