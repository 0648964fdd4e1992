"""The refusals that only identity gives. Each has one text, so that it says nothing about who is known."""

import grpc

from services.chassis.errors import Fault


class InvalidCredentials(Fault):
    """The same bytes for a wrong password, an unknown address and a disabled user."""

    code, reason = grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS"
    text = "E-mail and password do not match."


class EmailUnverified(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "EMAIL_UNVERIFIED"
    text = "The e-mail address has not been verified; follow the newest mail that was sent there."


class TokenInvalid(Fault):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_INVALID"
    text = "The token is unknown, used, replaced or past its time; sign up again to get another."

    def __init__(self) -> None:
        super().__init__(fields=[("token", "is not good, or not any more")])


class PasswordRejected(Fault):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "PASSWORD_REJECTED"
    text = "The password is among the first that anybody would guess; choose another."

    def __init__(self) -> None:
        super().__init__(fields=[("password", "is too common")])
