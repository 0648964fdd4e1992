"""`guildhall rotate`: new passwords and certificates under a running suite. Signing keys are `guildhall admin`'s."""

import secrets as randomness
from collections.abc import Callable

from psycopg import sql

from deploy.stack import certificates, gateway, secrets
from deploy.stack.settings import SERVICES
from deploy.stack.suite import Suite

SETTLED_SECONDS = 35.0
"""After so long no call runs any more that began with the files as they were: see LONGEST_CALL_SECONDS of the frame."""


def database_passwords(stack: Suite) -> list[str]:
    """Give each service's two roles a new password, and return their names. Connections that are open stay open.

    The superuser's stays: it opens nothing but the socket in this suite's own folder.
    """
    folder = stack.settings.layout.secrets
    roles = [role for service in SERVICES for role in (service, f"{service}_owner")]
    with stack.admin_database() as admin:
        for role in roles:
            password = randomness.token_hex(32)
            file = secrets.database_password_file(folder, role)
            # Written before, so that nothing but a rename lies between the two: whoever connects just then would be
            # refused. Should this end in between, the next start gives the role what is in its file.
            coming = file.with_suffix(".coming")
            secrets.write_private(coming, password.encode())
            verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))
            coming.replace(file)
    return roles


def rotate_certificates(stack: Suite, *, with_ca: bool, settle: Callable[[float], None]) -> list[str]:
    """Issue every certificate anew, by the CA there is or by a new one, and return their names.

    A new CA is trusted beside the old one before it signs anything, and the old one until nothing that it signed is
    presented any more; `settle` waits for so many seconds between the steps.
    """
    folder = stack.settings.layout.certificates
    if with_ca:
        certificates.add_ca(folder)
        gateway.publish_certificates(stack.settings)
        settle(SETTLED_SECONDS)
    certificates.renew(folder)
    gateway.publish_certificates(stack.settings)
    if with_ca:
        settle(SETTLED_SECONDS)
        certificates.drop_older_cas(folder)
        gateway.publish_certificates(stack.settings)
    return list(certificates.NAMES)
