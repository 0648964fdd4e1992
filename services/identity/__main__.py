"""identity's wiring: `python -m services.identity serve|worker|migrate|admin`."""

from collections.abc import Mapping, Sequence

import jwt
from guildhall.identity.v1 import (
    account_service_pb2_grpc,
    adapter_service_pb2_grpc,
    auth_service_pb2_grpc,
    service_account_service_pb2_grpc,
    session_service_pb2_grpc,
    user_service_pb2_grpc,
)

from services.chassis import command
from services.chassis.database import Database
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.worker import Sweep, Worker, forgetting
from services.identity import admin, departures, invites
from services.identity.attempts import Attempts
from services.identity.keys import SigningKeys
from services.identity.passwords import Passwords
from services.identity.seals import Seals
from services.identity.servicers.accounts import AccountService
from services.identity.servicers.adapter import AdapterService
from services.identity.servicers.auth import AuthService
from services.identity.servicers.service_accounts import ServiceAccountService
from services.identity.servicers.sessions import SessionService
from services.identity.servicers.users import UserService
from services.identity.settings import IdentitySettings, IdentityWorkerSettings
from services.identity.tables import METADATA
from services.identity.tasks import FORGOTTEN, Mails, reseal_accounts
from services.identity.uses import Uses


def build(settings: IdentitySettings) -> Frame:
    """The whole service, not yet serving. identity answers itself what other services ask it about their callers."""
    database = Database(settings)
    keys = SigningKeys(settings.signing_keys_dir, delay_seconds=settings.signing_key_delay_seconds)
    seals = Seals(settings.provider_keys_file)
    uses = Uses(database)

    async def check_sessions(session_ids: Sequence[str], _timeout_seconds: float) -> Sequence[bool]:
        return await uses.check(session_ids)

    async def public_keys() -> Mapping[str, jwt.PyJWK]:
        return {key_id: jwt.PyJWK(key) for key_id, key in keys.published().items()}

    frame = Frame(
        "identity",
        settings,
        consumes={
            "invite_opened": Consumer({"membership", "guest"}, invites.apply_opened),
            "invite_closed": Consumer({"membership", "guest"}, invites.apply_closed),
        },
        check_sessions=check_sessions,
        public_keys=public_keys,
        database=database,
    )
    attempts = Attempts(
        settings.redis_url,
        frame.secret,
        mails_per_address=settings.mails_per_address,
        mails_per_network=settings.mails_per_network,
    )
    frame.on_close(attempts.close)
    auth = AuthService(database, frame.secret, Passwords(), keys, attempts=attempts, sign_up=settings.sign_up)
    frame.add(auth_service_pb2_grpc.add_AuthServiceServicer_to_server, auth)
    frame.add(user_service_pb2_grpc.add_UserServiceServicer_to_server, UserService(database, frame.secret, attempts))
    frame.add(
        session_service_pb2_grpc.add_SessionServiceServicer_to_server, SessionService(database, frame.secret, uses)
    )
    frame.add(
        service_account_service_pb2_grpc.add_ServiceAccountServiceServicer_to_server,
        ServiceAccountService(database, frame.secret),
    )
    frame.add(
        account_service_pb2_grpc.add_AccountServiceServicer_to_server, AccountService(database, frame.secret, seals)
    )
    adapter = AdapterService(database, frame.secret, seals, keys, uses)
    frame.add(adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server, adapter)
    frame.background(uses.run())
    return frame


async def serve(settings: IdentitySettings) -> None:
    await build(settings).run()


def worker(settings: IdentityWorkerSettings) -> None:
    process = Worker("identity", settings)
    mails = Mails(settings, process.database, process.secret)
    seals = Seals(settings.provider_keys_file)
    works = {**mails.works(), **departures.works(process.database)}
    sweeps: Mapping[str, Sweep] = {
        **forgetting(process.database, FORGOTTEN),
        "reseal_accounts": lambda: reseal_accounts(process.database, seals),
    }
    process.serve(works, sweeps=sweeps)


if __name__ == "__main__":
    command.run(
        "identity",
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=IdentitySettings,
        worker_settings=IdentityWorkerSettings,
        admin=admin.run,
    )
