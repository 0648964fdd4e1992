"""Whose role counts where somebody must be left to run a workspace or own a group, and who may inherit it."""

DISABLED = "EXISTS (SELECT FROM disabled_users d WHERE d.user_id = m.user_id AND d.is_disabled)"
"""SQL: whether the person behind the member `m` is kept out by identity."""

ABLE = f"(m.kind = 'full' AND m.state = 'active' AND NOT {DISABLED})"
"""SQL: whether the member `m` could use what they hold: who cannot sign in runs nothing."""


def able_in(path: str) -> str:
    """SQL: the same in the group of which `path` is the SQL; who is banned there or above does not own it.

    The role may still be written down.
    """
    return f"""({ABLE} AND NOT EXISTS (
        SELECT FROM group_bans b
        WHERE b.workspace_id = m.workspace_id AND b.user_id = m.user_id AND b.group_id = ANY({path})
            AND (b.expire_at IS NULL OR statement_timestamp() < b.expire_at)
    ))"""


def owned(owning_role: str, *, path: str) -> str:
    """SQL: whether the group `g` has an owner who counts, if its path is `path`."""
    return f"""EXISTS (
        SELECT FROM group_members gm JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id
        WHERE gm.workspace_id = g.workspace_id AND gm.scheme_id = g.scheme_id AND gm.role = {owning_role}
            AND gm.group_id = g.id AND {able_in(path)}
    )"""
