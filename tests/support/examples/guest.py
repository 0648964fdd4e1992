"""Examples of guest's RPCs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.guest.v1 import guest_service_pb2 as guests

from tests.support.examples import Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import House, in_days


def place(house: House, _caller: Caller) -> dict[str, Any]:
    """The workspace."""
    return house.workspace


def about_guest(house: House, _caller: Caller) -> dict[str, Any]:
    """The guest who stays."""
    return {**house.workspace, "member_id": house.guest_id}


def about_oneself(house: House, caller: Caller) -> dict[str, Any]:
    """The caller, where they are in the workspace."""
    return {**house.workspace, "member_id": caller.member_id or house.guest_id}


async def new_guest(house: House, **more: Any) -> dict[str, Any]:
    """Another guest."""
    return {**house.workspace, "member_id": (await house.new_guest())[1], **more}


async def invite(house: House, _caller: Caller) -> dict[str, Any]:
    """An open link."""
    return {**house.workspace, "invite_id": (await house.guest_invite()).invite.invite_id}


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "guest.GuestInviteService/CreateGuestInvite": Example(
            lambda h, c: {
                **h.workspace,
                "conversation_ids": [h.channel_id],
                "guest_ttl": Duration(seconds=3_600),
            }
        ),
        "guest.GuestInviteService/ListGuestInvites": Example(place),
        "guest.GuestInviteService/RevokeGuestInvite": Example(invite),
        "guest.GuestInviteService/PreviewGuestInvite": Example(lambda h, c: {"token": h.guest_token}),
        "guest.GuestInviteService/RedeemGuestInvite": Example(
            lambda h, c: {"token": h.guest_token}, spends_caller=True
        ),
        "guest.GuestService/GetGuest": Example(about_guest),
        "guest.GuestService/GetGuest (own)": Example(about_oneself, personal=True),
        "guest.GuestService/ListGuests": Example(place),
        "guest.GuestService/ExtendGuest": Example(lambda h, c: new_guest(h, expire_time=in_days(3))),
        "guest.GuestService/GrantChannel": Example(lambda h, c: new_guest(h, conversation_id=h.second_channel_id)),
        "guest.GuestService/RevokeChannel": Example(lambda h, c: new_guest(h, conversation_id=h.channel_id)),
        "guest.GuestService/RemoveGuest": Example(lambda h, c: new_guest(h)),
        "guest.GuestService/PromoteGuest": Example(lambda h, c: new_guest(h, role=guests.PROMOTED_ROLE_MEMBER)),
        "guest.GuestService/TransferSponsor": Example(lambda h, c: new_guest(h, sponsor_member_id=h.boss_id)),
        "guest.GuestService/GetGuestPolicy": Example(place),
        "guest.GuestService/UpdateGuestPolicy": Example(
            lambda h, c: {
                "policy": {**h.workspace, "notice_days": [2]},
                "update_mask": FieldMask(paths=["notice_days"]),
            }
        ),
        "guest.GuestService/ListVisibleMembers": Example(place),
        "guest.GuestService/ExplainVisibility": Example(
            lambda h, c: {**about_guest(h, c), "subject_member_id": h.bob_id}
        ),
        "guest.GuestService/ExplainVisibility (own)": Example(
            lambda h, c: {**about_oneself(h, c), "subject_member_id": h.bob_id}, personal=True
        ),
        "guest.GuestAccessService/BatchCheckGuests": Example(lambda h, c: {"questions": [about_guest(h, c)]}),
        "guest.GuestAccessService/ListGuestChannels": Example(about_guest),
        "guest.GuestAccessService/FilterVisibleUsers": Example(
            lambda h, c: {**about_guest(h, c), "candidate_member_ids": [h.boss_id]}
        ),
        "guest.GuestAccessService/ListVisibleUsers": Example(lambda h, c: {**about_guest(h, c), "page_size": 10}),
    }
)
