"""What a role lets a member do, and who may act on whom."""

from collections.abc import Mapping
from typing import Protocol

READ = "workspace.read"
UPDATE_WORKSPACE = "workspace.update"
DELETE_WORKSPACE = "workspace.delete"
CREATE_CONVERSATIONS = "conversations.create"
SEND_MESSAGES = "messages.send"
MANAGE_CONVERSATIONS = "conversations.manage"
MODERATE_MESSAGES = "messages.moderate"
INVITE_MEMBERS = "members.invite"
UPDATE_MEMBERS = "members.update"
UPDATE_ROLES = "members.update_role"
SUSPEND_MEMBERS = "members.suspend"
REMOVE_MEMBERS = "members.remove"
BAN_MEMBERS = "members.ban"
INVITE_GUESTS = "guests.invite"
MANAGE_GUESTS = "guests.manage"
CREATE_GROUPS = "groups.create"
MANAGE_ROLE_SCHEMES = "role_schemes.manage"
MANAGE_USER_GROUPS = "user_groups.manage"
READ_ACTIVITIES = "activities.read"

# In groups; a scheme's roles give these and the product's own.
EVERYTHING = "*"
MANAGE_GROUP = "group.manage"
DELETE_GROUP = "group.delete"
MANAGE_GROUP_MEMBERS = "group.members.manage"
INVITE_TO_GROUP = "group.members.invite"
BAN_FROM_GROUP = "group.members.ban"

OF_VIEWERS = frozenset({READ})
OF_MEMBERS = OF_VIEWERS | {CREATE_CONVERSATIONS, SEND_MESSAGES, CREATE_GROUPS}
OF_ADMINS = OF_MEMBERS | {
    UPDATE_WORKSPACE,
    DELETE_WORKSPACE,
    MANAGE_CONVERSATIONS,
    MODERATE_MESSAGES,
    INVITE_MEMBERS,
    UPDATE_MEMBERS,
    UPDATE_ROLES,
    SUSPEND_MEMBERS,
    REMOVE_MEMBERS,
    BAN_MEMBERS,
    INVITE_GUESTS,
    MANAGE_GUESTS,
    MANAGE_ROLE_SCHEMES,
    MANAGE_USER_GROUPS,
    READ_ACTIVITIES,
}
BY_ROLE: Mapping[str, frozenset[str]] = {"viewer": OF_VIEWERS, "member": OF_MEMBERS, "admin": OF_ADMINS}
# Whatever their role: the role is what they would hold as a full member. Which channels and until when is guest's word.
OF_GUESTS = frozenset({READ, SEND_MESSAGES})

RANKS: Mapping[str, int] = {"viewer": 1, "member": 2, "admin": 3}
TOP_RANK = max(RANKS.values())
GUEST_RANK = 0
ADMIN_RANK_IN_GROUPS = 10_000
"""A workspace admin's, in every group: above every rank of a scheme."""


class Standing(Protocol):
    """A member's row, as far as rights go."""

    @property
    def role(self) -> str: ...

    @property
    def kind(self) -> str: ...


def allows(member: Standing, capability: str) -> bool:
    """Whether an active member has a capability; nobody has an unknown one."""
    return capability in (OF_GUESTS if member.kind == "guest" else BY_ROLE[member.role])


def rank(member: Standing) -> int:
    """A guest is below everybody."""
    return GUEST_RANK if member.kind == "guest" else RANKS[member.role]


def may_act_on(actor: Standing, target: Standing) -> bool:
    """Strictly downwards; the top rank also on its equals, or an admin could never be removed."""
    return rank(target) < rank(actor) or rank(actor) == TOP_RANK
