"""`guildhall token`: a signed-in user in one step, by the same calls that any client makes.

Development only. There is no door for it in the services: what it needs beyond a client's means is to read the
mail folder of a stack on this machine. Its passwords derive from a secret of the data directory.
"""

import email
import re
import time
from datetime import UTC
from email.policy import default
from pathlib import Path

import grpc
from guildhall.identity.v1 import auth_service_pb2, auth_service_pb2_grpc

from deploy.stack.settings import StackError

_CALL_SECONDS = 10
_MAIL_SECONDS = 15
_TOKEN = re.compile(r"[?&#/]token[=/]([A-Za-z0-9_.~-]+)")


def fetch(gateway_address: str, mail_folder: Path, address: str, password: str) -> tuple[str, float]:
    """An access token, and when it ends, for the user of this address, signed up and verified first if need be."""
    with grpc.insecure_channel(gateway_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        try:
            return _sign_in_or_up(auth, mail_folder, address, password)
        except grpc.RpcError as error:
            raise StackError(f"{_code(error).name}: {_details(error)}") from None


def _sign_in_or_up(
    auth: auth_service_pb2_grpc.AuthServiceStub, mail_folder: Path, address: str, password: str
) -> tuple[str, float]:
    since = time.time() - 1  # a file system's clock ticks more coarsely than ours
    try:
        return _sign_in(auth, address, password)
    except grpc.RpcError as error:
        if _code(error) is grpc.StatusCode.FAILED_PRECONDITION:
            since = 0  # signed up, not verified: the mail may be an old one
        elif _code(error) is not grpc.StatusCode.UNAUTHENTICATED:
            raise
    name = (address.partition("@")[0] or address)[:100]
    auth.SignUp(auth_service_pb2.SignUpRequest(email=address, password=password, name=name), timeout=_CALL_SECONDS)
    token = wait_for_token(mail_folder, address, since)
    auth.VerifyEmail(auth_service_pb2.VerifyEmailRequest(token=token), timeout=_CALL_SECONDS)
    return _sign_in(auth, address, password)


def _sign_in(auth: auth_service_pb2_grpc.AuthServiceStub, address: str, password: str) -> tuple[str, float]:
    request = auth_service_pb2.SignInRequest(email=address, password=password, device_label="guildhall token")
    tokens = auth.SignIn(request, timeout=_CALL_SECONDS, wait_for_ready=True).tokens
    return tokens.access_token, tokens.access_token_expire_time.ToDatetime(tzinfo=UTC).timestamp()


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else str(error)


def wait_for_token(mail_folder: Path, address: str, since: float) -> str:
    """The token in the newest mail to an address that was written since then (seconds since 1970)."""
    deadline = time.monotonic() + _MAIL_SECONDS
    while time.monotonic() < deadline:
        if found := _find_token(mail_folder, address, since):
            return found
        time.sleep(0.1)
    raise StackError(
        f"no mail with a token for {address} came into {mail_folder} within {_MAIL_SECONDS} s; "
        "if the address is known by another password, give that with --password"
    )


def _find_token(mail_folder: Path, address: str, since: float) -> str | None:
    """The token in the newest mail to an address that has one."""
    mails = [(path.stat().st_mtime, path) for path in mail_folder.glob("*.eml")]
    for written_at, path in sorted(mails, reverse=True):
        message = email.message_from_bytes(path.read_bytes(), policy=default)
        body = message.get_body(("plain",))
        if written_at < since or body is None or str(message["To"]).casefold() != address.casefold():
            continue
        if found := _TOKEN.search(body.get_content()):
            return found[1]
    return None
