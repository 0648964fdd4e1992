"""identity's wiring: `python -m services.identity serve|worker|migrate`."""

from collections.abc import Mapping, Sequence

import jwt
from guildhall.identity.v1 import auth_service_pb2_grpc, session_service_pb2_grpc, user_service_pb2_grpc

from services.chassis import command
from services.chassis.database import Database
from services.chassis.frame import Frame
from services.chassis.settings import WorkerSettings
from services.chassis.worker import Worker
from services.identity import sessions
from services.identity.keys import SigningKeys
from services.identity.passwords import Passwords
from services.identity.servicers.auth import AuthService
from services.identity.servicers.sessions import SessionService
from services.identity.servicers.users import UserService
from services.identity.settings import IdentitySettings
from services.identity.tables import METADATA
from services.identity.tasks import Mails, forget


def build(settings: IdentitySettings) -> Frame:
    """The whole service, not yet serving. identity answers itself what other services ask it about their callers."""
    database = Database(settings)
    keys = SigningKeys(settings.signing_keys_dir)

    async def check_sessions(session_ids: Sequence[str], _timeout_seconds: float) -> Sequence[bool]:
        return await database.read(lambda tx: sessions.check(tx, session_ids=session_ids))

    async def public_keys() -> Mapping[str, jwt.PyJWK]:
        return {key_id: jwt.PyJWK(key) for key_id, key in keys.published().items()}

    frame = Frame(
        "identity",
        settings,
        consumes={},
        check_sessions=check_sessions,
        public_keys=public_keys,
        database=database,
    )
    auth = AuthService(database, frame.secret, Passwords(), keys)
    frame.add(auth_service_pb2_grpc.add_AuthServiceServicer_to_server, auth)
    frame.add(user_service_pb2_grpc.add_UserServiceServicer_to_server, UserService(database))
    frame.add(session_service_pb2_grpc.add_SessionServiceServicer_to_server, SessionService(database))
    return frame


async def serve(settings: IdentitySettings) -> None:
    await build(settings).run()


def worker(settings: WorkerSettings) -> None:
    process = Worker("identity", settings)
    mails = Mails(settings, process.database, process.secret)
    process.serve(
        {"mail.verify_email": mails.verify_email, "mail.known_address": mails.known_address},
        sweeps=[lambda: forget(process.database)],
    )


if __name__ == "__main__":
    command.run("identity", serve=serve, worker=worker, metadata=METADATA, serve_settings=IdentitySettings)
