"""What a role lets a member do, and who may act on whom (R20, semantics 11)."""

from collections.abc import Mapping
from typing import Protocol

READ = "workspace.read"
CREATE_CONVERSATIONS = "conversations.create"
SEND_MESSAGES = "messages.send"
INVITE_MEMBERS = "members.invite"
REMOVE_MEMBERS = "members.remove"
INVITE_GUESTS = "guests.invite"
MANAGE_GUESTS = "guests.manage"

BY_ROLE: Mapping[str, frozenset[str]] = {
    "viewer": frozenset({READ}),
    "member": frozenset({READ, CREATE_CONVERSATIONS, SEND_MESSAGES}),
    "admin": frozenset(
        {READ, CREATE_CONVERSATIONS, SEND_MESSAGES, INVITE_MEMBERS, REMOVE_MEMBERS, INVITE_GUESTS, MANAGE_GUESTS}
    ),
}
# Whatever their role: the role is what they would hold as a full member. Which channels and until when is guest's word.
OF_GUESTS = frozenset({READ, SEND_MESSAGES})

RANKS: Mapping[str, int] = {"viewer": 1, "member": 2, "admin": 3}
TOP_RANK = max(RANKS.values())
GUEST_RANK = 0


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
