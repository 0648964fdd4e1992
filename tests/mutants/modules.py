"""The modules that decide, and the test files that guard each of them.

A mutant is tried against those tests of these files that enter the function it is in.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath


def _service(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/service/test_{name}.py" for name in names)


def _unit(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/test_{name}.py" for name in names)


GUARDED_BY: Mapping[str, Sequence[str]] = {
    # Who calls, with what token; what is repeated.
    "services/chassis/idempotency.py": (
        *_unit("chassis_idempotency"),
        *_service("repeatable_calls", "identity_users", "guest_invites", "guest_recovery"),
    ),
    "services/chassis/tokens.py": (*_unit("chassis_tokens"), *_service("interceptors", "identity_key_rotation")),
    "services/chassis/interceptors.py": (
        *_unit("chassis_validate", "chassis_interceptors"),
        *_service("interceptors", "service_account_doors", "identity_devices"),
    ),
    "services/chassis/sessions.py": _service("interceptors"),
    "services/chassis/coalesce.py": _unit("coalesce"),
    "services/chassis/pages.py": _unit("chassis_pages"),
    "services/identity/sessions.py": _service(
        "identity_sessions", "identity_devices", "identity_worker", "identity_security_log"
    ),
    "services/identity/service_accounts.py": _service("identity_service_accounts"),
    "services/identity/verification.py": _service("identity_takeovers", "identity_sign_in_by_mail", "identity_worker"),
    "services/identity/credentials.py": _service("identity_takeovers", "identity_passwords", "identity_sign_up"),
    "services/identity/accounts.py": _service("identity_accounts"),
    "services/identity/guesses.py": _service("identity_attempts"),
    # Permissions.
    "services/membership/verdicts.py": _service("membership_group_access", "membership_access", "membership_guests"),
    "services/membership/capabilities.py": _service("membership_access", "membership_removal", "membership_guests"),
    "services/membership/group_access.py": _service(
        "membership_group_members", "membership_group_bans", "membership_group_rights"
    ),
    "services/membership/members.py": _service("membership_removal", "membership_members", "membership_guests"),
    "services/membership/continuity.py": _service("membership_continuity", "membership_last_admin"),
    "services/membership/removals.py": _service("membership_removal", "membership_continuity"),
    "services/membership/suspensions.py": _service("membership_members", "membership_continuity"),
    "services/membership/revisions.py": _service("membership_watching"),
    # Invitations and bans.
    "services/membership/joining.py": _service(
        "membership_bans", "membership_invitations", "membership_limits", "membership_disabled"
    ),
    "services/membership/bans.py": _service("membership_bans"),
    "services/membership/invitations.py": _service(
        *("membership_invitations", "membership_invitation_ends", "membership_invitation_events", "membership_bans"),
        "membership_disabled",
    ),
    "services/membership/group_bans.py": _service("membership_group_bans", "membership_group_events"),
    "services/membership/group_invites.py": _service("membership_group_invites", "membership_group_rights"),
    "services/membership/group_redemptions.py": _service(
        "membership_group_invites", "membership_group_bans", "membership_disabled"
    ),
    # Guests.
    "services/membership/guest_members.py": _service("membership_guests", "membership_peers"),
    "services/guest/access.py": _service("guest_links", "guest_departures", "guest_policies"),
    "services/guest/guests.py": _service("guest_expiry", "guest_departures", "guest_grants"),
    "services/guest/tasks.py": _service("guest_expiry", "guest_races"),
    "services/guest/grants.py": _service("guest_grants", "guest_expiry"),
    "services/guest/invites.py": _service("guest_links", "guest_invites", "guest_redemption", "guest_invite_events"),
    "services/guest/redemptions.py": _service("guest_redemption", "guest_recovery"),
    "services/guest/policies.py": _service("guest_policies", "guest_policy_changes"),
    "services/guest/policy_changes.py": _service("guest_policies", "guest_policy_changes"),
    # Delivery.
    "services/messaging/access.py": _service(
        "messaging_group_conversations", "guest_sight_locked", "messaging_conversations"
    ),
    "services/messaging/guards.py": _service("messaging_streams", "guest_sight_streams", "messaging_stream_ends"),
    "services/messaging/guest_sight.py": _service("guest_sight_people", "guest_sight_streams", "guest_sight_history"),
    "services/messaging/sends.py": _service("messaging_messages", "messaging_bodies", "messaging_coalescing"),
    "services/messaging/changes.py": _service("messaging_edits", "messaging_deletes"),
    "services/messaging/deliveries.py": (
        *_unit("messaging_deliveries"),
        *_service("messaging_streams", "messaging_channels"),
    ),
    "services/messaging/hub.py": _service("messaging_streams", "messaging_channels"),
    "services/messaging/audiences.py": _service(
        "messaging_streams", "messaging_channels", "messaging_catch_ups", "messaging_fair_shares"
    ),
    "services/messaging/peers.py": _service("messaging_messages", "guest_sight_locked"),
}


def chosen(words: Sequence[str]) -> list[str]:
    """The modules whose path, name or service one of the words is; all if there is none. Raises LookupError."""
    found: list[str] = []
    for word in words or list(GUARDED_BY):
        named = [path for path in GUARDED_BY if word in _names(path)]
        if not named:
            raise LookupError(f"{word!r} names no module that decides; they are {', '.join(GUARDED_BY)}")
        found += [path for path in named if path not in found]
    return found


def _names(path: str) -> set[str]:
    place = PurePosixPath(path)
    return {path, place.parts[1], place.stem, f"{place.parts[1]}.{place.stem}"}
