"""guest's real server or worker, which kills itself with SIGKILL at one step.

`python -m tests.support.cut_guest STEP serve|worker`: nothing else of it is changed. A step is "before" or "after" one
of its functions; after one that runs inside a transaction means before the commit.
"""

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

STEPS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        f"{when} {name}": (when, module, path)
        for name, module, path in (
            ("adding the member", "services.guest.peers", "Membership.add_guest_member"),
            ("deciding on the redemption", "services.guest.redemptions", "decide"),
            ("confirming the member", "services.guest.peers", "Membership.confirm_guest_member"),
            ("deciding on the removal", "services.guest.departures", "remove"),
            ("removing the member", "services.guest.peers", "Membership.remove_guest_member"),
            ("deciding on the promotion", "services.guest.departures", "promote"),
            ("making them a full member", "services.guest.peers", "Membership.make_full_member"),
            ("cutting times", "services.guest.policy_changes", "tighten"),
            ("raising the revision", "services.guest.peers", "Membership.bump_access_revision"),
            ("materialising", "services.guest.tasks", "materialise"),
            ("sending", "services.chassis.mail", "Mailer.send"),
            ("marking as sent", "services.guest.notices", "mark_sent"),
        )
        for when in ("before", "after")
    }
)


def cut(step: str) -> None:
    """Has this process killed at a step."""
    when, module, path = STEPS[step]
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    whole = getattr(owner, name)

    async def killed(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            await whole(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killed)


if __name__ == "__main__":
    cut(sys.argv.pop(1))
    runpy.run_module("services.guest", run_name="__main__", alter_sys=False)
