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
    text = "The token is unknown, used, replaced or past its time; ask for another mail."

    def __init__(self) -> None:
        super().__init__(fields=[("token", "is not good, or not any more")])


class PasswordRejected(Fault):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "PASSWORD_REJECTED"
    text = "The password is among the first that anybody would guess; choose another."

    def __init__(self, field: str = "password") -> None:
        super().__init__(fields=[(field, "is too common")])


class LastAdministrator(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMINISTRATOR"
    text = "No system administrator would be left; `guildhall admin make-administrator` makes another."


class ReauthenticationRequired(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "REAUTHENTICATION_REQUIRED"
    text = "The session was started more than 10 minutes ago; sign in again first."


class EmailTaken(Fault):
    """Only for callers who may know who is known."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN"
    text = "There is a user of that address."


class LastCredential(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "LAST_CREDENTIAL"
    text = "The user would have no way left to sign in; set a password or link another account first."


class AccountLinkedElsewhere(Fault):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_LINKED_ELSEWHERE"
    text = "The provider's account is linked to another user."


class TooManyKeys(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_KEYS"
    text = "The service account has two live keys; revoke one first."


class SignUpClosed(Fault):
    """It depends on the settings and the invite token, never on the address."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "SIGN_UP_CLOSED"
    text = "Sign-up is closed, or for the invited only and the invite token is not good."


class SignInLimited(Fault):
    """The same for addresses that nobody has."""

    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "SIGN_IN_LIMITED"
    text = "Too many wrong passwords came from there; come back later."


class PasswordHashUnsupported(Fault):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "PASSWORD_HASH_UNSUPPORTED"
    text = "The hash is none of bcrypt, scrypt and Argon2, or costs too much to verify."

    def __init__(self) -> None:
        super().__init__(fields=[("password_hash", "is not supported")])
