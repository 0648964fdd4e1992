"""Which gateway is called, and where sessions are kept."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.stack.settings import SettingsError

GATEWAY = "GUILDHALL_GATEWAY"
CA_FILE = "GUILDHALL_GATEWAY_CA_FILE"
VARIABLES: Mapping[str, tuple[str, str]] = {
    GATEWAY: ("where `guildhall login` was said last", "the gateway of `login`, `token`, `tail` and `upload`"),
    CA_FILE: ("the system's", "the authority of its certificate"),
    "XDG_CONFIG_HOME": ("`~/.config`", "`guildhall/sessions.json` in it is the session of `guildhall login`"),
}
"""What these commands are told: the default, and what it is; docs/configuration.md is made of it."""


@dataclass(frozen=True)
class Gateway:
    """Where a gateway is, and how it is spoken to."""

    target: str
    """HOST:PORT."""
    tls: bool
    ca_file: str = ""
    """The authority of its certificate; the system's if empty."""

    @property
    def url(self) -> str:
        """What it is called, in messages and in the file of sessions."""
        return f"{'https' if self.tls else 'http'}://{self.target}"


def parse_gateway(text: str, *, ca_file: str = "") -> Gateway:
    """A gateway as people write it: HOST[:PORT] or a URL. TLS, unless it is on this machine.

    Raises `SettingsError`.
    """
    parts = urlsplit(text if "://" in text else f"//{text}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in ("", "http", "https") or not host or parts.path.strip("/") or parts.query or parts.username:
        raise SettingsError([f"the gateway must be HOST:PORT or https://HOST, not {text!r}"])
    if parts.scheme == "http" and not _is_this_machine(host):
        raise SettingsError([f"{text} would be told passwords in clear over the network; say https://{host}"])
    tls = parts.scheme == "https" or bool(ca_file) or (not parts.scheme and not _is_this_machine(host))
    if ca_file and not Path(ca_file).is_file():
        raise SettingsError([f"there is no file {ca_file}, which {CA_FILE} or --ca-file names"])
    named = f"[{host}]" if ":" in host else host
    usual = 443 if tls else 8080
    return Gateway(f"{named}:{port or usual}", tls, str(Path(ca_file).resolve()) if ca_file else "")


def given_gateway(environment: Mapping[str, str], *, gateway: str = "", ca_file: str = "") -> Gateway | None:
    """The gateway of the command line, else of the environment; None if neither says."""
    text = gateway or environment.get(GATEWAY, "")
    return parse_gateway(text, ca_file=ca_file or environment.get(CA_FILE, "")) if text else None


def sessions_folder(environment: Mapping[str, str]) -> Path:
    """Where sessions are kept (XDG Base Directory Specification: a relative path counts as none)."""
    base = Path(environment.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "guildhall"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
