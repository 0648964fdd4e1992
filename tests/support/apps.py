"""An Auth.js app, as identity sees one: what its database adapter calls."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import adapter_service_pb2 as pb
from guildhall.identity.v1 import adapter_service_pb2_grpc as rpc

from tests.support.administrators import Backend
from tests.support.identities import new_address
from tests.support.suite import Suite


class App:
    """An app's adapter."""

    def __init__(self, suite: Suite, product: Backend) -> None:
        self._stub = suite.stub(rpc.AdapterServiceStub)
        self._product = product

    async def __call__(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"AdapterService{method}Request")(**fields)
        return await self._product.call(getattr(self._stub, method), request)

    async def user(self, **fields: Any) -> pb.AdapterUser:
        """Somebody new."""
        user = (await self("CreateUser", **{"email": new_address(), **fields})).user
        assert isinstance(user, pb.AdapterUser)
        return user

    async def get(self, user_id: str) -> pb.AdapterUser | None:
        """getUser."""
        return or_none(await self("GetUser", user_id=user_id), "user")


def or_none(answer: Any, field: str) -> Any:
    """A field of an answer, None if it is absent."""
    return getattr(answer, field) if answer.HasField(field) else None


def at(moment: datetime) -> Timestamp:
    """A time as the wire has it, exact to the millisecond as JavaScript's are."""
    wired = Timestamp()
    wired.FromMilliseconds(int(moment.timestamp() * 1000))
    return wired


def after(**span: float) -> Timestamp:
    """A time from now on."""
    return at(datetime.now(UTC) + timedelta(**span))
