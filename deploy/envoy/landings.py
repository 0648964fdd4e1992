"""Where links in mails lead while a product has no page of its own there: a page that says which call the token is for.

People's pages are the product's, at GUILDHALL_PUBLIC_URL. Without them the first person who opens a link, most likely
whoever has just installed this, would be told that there is no such method.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from deploy.envoy.descriptors import PublicRpc, public_methods, public_rpcs

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>There is no page here yet</title>
<link rel="icon" href="data:,">
</head>
<body>
<main>
<h1>There is no page here yet</h1>
<p>This link is meant to {purpose}. Its page belongs to a site that has not been set up, so nothing has happened, and
the link has not been used. Please tell whoever sent you here.</p>
<h2>For who runs it</h2>
<p>People's pages are your product's. Set <code>GUILDHALL_PUBLIC_URL</code> to its site, where the page
<code>{path}?token=…</code> calls <code>{rpc}</code>{condition} with that token. By hand, at this gateway:</p>
<pre>{call}</pre>
{more}</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Landing:
    """A link of the mails: its path, what it is for, and the RPC that takes its token."""

    path: str
    purpose: str
    rpc: str
    beside: Mapping[str, str] = field(default_factory=dict)
    """What the call needs beside the token, as it stands in JSON."""
    command: str = ""
    """The command that asks for the link."""


LANDINGS = (
    Landing("/verify-email", "prove an e-mail address", "guildhall.identity.v1.AuthService/VerifyEmail"),
    Landing(
        "/sign-in",
        "sign somebody in",
        "guildhall.identity.v1.AuthService/CompleteEmailSignIn",
        command="guildhall login --by-mail",
    ),
    Landing(
        "/reset-password",
        "choose a new password",
        "guildhall.identity.v1.AuthService/ResetPassword",
        {"newPassword": "…"},
    ),
    Landing("/invitations/accept", "join a workspace", "guildhall.membership.v1.InvitationService/AcceptInvitation"),
)


def html(landing: Landing) -> bytes:
    """The page. It holds nothing of the link, and so no token. KeyError if there is no such RPC."""
    rpc = {each.path.removeprefix("/"): each for each in public_rpcs()}[landing.rpc]
    methods = {f"{each.containing_service.full_name}/{each.name}": each for each in public_methods()}
    more = f"<p><code>{escape(landing.command)}</code> asks for the link.</p>\n" if landing.command else ""
    return _PAGE.format(
        purpose=escape(landing.purpose),
        path=escape(landing.path),
        rpc=escape(landing.rpc),
        condition=", as who is signed in," if rpc.needs_token else "",
        call=escape(_call(landing, rpc, methods[landing.rpc])),
        more=more,
    ).encode()


def _call(landing: Landing, rpc: PublicRpc, method: MethodDescriptor) -> str:
    """The same call as JSON, with curl."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    body = json.dumps({"token": "TOKEN", **landing.beside}, ensure_ascii=False)
    who = " -H 'authorization: Bearer ACCESS_TOKEN'" if rpc.needs_token else ""
    return f"curl -X POST https://GATEWAY{rule.post}{who} -d '{body}'"
