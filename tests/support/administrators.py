"""System administrators, and the service accounts that they make."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import service_account_service_pb2 as pb
from guildhall.identity.v1 import service_account_service_pb2_grpc as rpc

from tests.support.suite import Person, Suite


async def administrator(suite: Suite, name: str = "Root") -> Person:
    """Somebody new who is a system administrator."""
    person = await suite.person(name)
    with suite.database("identity") as database:
        database.execute("UPDATE users SET administrator_since = statement_timestamp() WHERE id = %s", [person.user_id])
    return person


@contextmanager
def only_administrators(suite: Suite, *people: Person) -> Iterator[None]:
    """For a while nobody else is one: other tests have made theirs, and those count."""
    ids = [person.user_id for person in people]
    with suite.database("identity") as database:
        others = database.execute(
            "SELECT id, administrator_since FROM users WHERE administrator_since IS NOT NULL AND id <> ALL(%s)", [ids]
        ).fetchall()
        database.execute("UPDATE users SET administrator_since = NULL WHERE id <> ALL(%s)", [ids])
        try:
            yield
        finally:
            for user_id, since in others:
                database.execute("UPDATE users SET administrator_since = %s WHERE id = %s", [since, user_id])


@dataclass
class Backend:
    """A service account with a token, calling as a product's back end does."""

    account_id: str
    access_token: str

    def call(self, rpc_method: Any, request: Any, *, timeout: float = 10) -> Any:
        """Calls an RPC as the service account; await it."""
        return rpc_method(request, timeout=timeout, metadata=(("authorization", f"Bearer {self.access_token}"),))


async def backend(suite: Suite, *scopes: str, by: Person | None = None) -> Backend:
    """A new service account of these scopes."""
    root = by or await administrator(suite)
    stub = suite.stub(rpc.ServiceAccountServiceStub)
    made = await root.call(stub.CreateServiceAccount, pb.CreateServiceAccountRequest(name="Product", scopes=scopes))
    account_id = made.service_account.service_account_id
    key = await root.call(stub.CreateServiceKey, pb.CreateServiceKeyRequest(service_account_id=account_id))
    request = auth.ExchangeServiceKeyRequest(service_key=key.service_key)
    token = await suite.stub(auth_rpc.AuthServiceStub).ExchangeServiceKey(request, timeout=10)
    return Backend(account_id, token.access_token)
