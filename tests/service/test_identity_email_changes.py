"""Asking for another address, and asking again: what mails that costs."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc as rpc

from tests.support.identities import execute, from_address, new_address
from tests.support.suite import Person, Suite, refused


@pytest.fixture
def users(suite: Suite) -> Any:
    return suite.stub(rpc.UserServiceStub)


def change(**fields: str) -> pb.UpdateUserRequest:
    return pb.UpdateUserRequest(update_mask=FieldMask(paths=sorted(fields)), **fields)


async def test_an_address_that_is_asked_for_again_gets_one_mail_whoever_has_it(suite: Suite, users: Any) -> None:
    owner = await suite.person("Bob")
    for address, before in ((new_address(), 0), (owner.email, 1)):
        person = await suite.person("Ada")
        first = await person.call(users.UpdateUser, change(email=address))
        again = [person.call(users.UpdateUser, change(email=address.upper(), name="Ada")) for _ in range(6)]
        assert {answer.pending_email_change for answer in (first, *await asyncio.gather(*again))} == {True}
        # Had each of them spent a mail, there would be none left for this network's next person.
        other = await suite.person("Eve")
        await other.call(users.UpdateUser, change(email=address))
        assert len(await suite.mails(address, count=before + 2)) == before + 2
        assert [mails for _, mails in mails_asked(suite, person, other)] == [1, 1]


async def test_an_address_that_is_asked_for_again_gets_another_mail_after_a_while_or_after_another_address(
    suite: Suite, users: Any
) -> None:
    person, address = await suite.person("Ada"), new_address()
    await person.call(users.UpdateUser, change(email=address))
    lost = await suite.mailed_token(address)
    earlier = "UPDATE verification_tokens SET created_at = created_at - interval '15 minutes' WHERE user_id = %s"
    execute(suite, earlier, person.user_id)
    await person.call(users.UpdateUser, change(email=address))
    assert len(await suite.mails(address, count=2)) == 2
    verify = suite.stub(auth_rpc.AuthServiceStub).VerifyEmail(auth.VerifyEmailRequest(token=lost), timeout=10)
    assert (await refused(verify)).reason == "TOKEN_INVALID"

    await person.call(users.UpdateUser, change(email=new_address()))
    await person.call(users.UpdateUser, change(email=address))
    assert len(await suite.mails(address, count=3)) == 3


async def test_ones_own_address_spends_no_mail(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    auth_stub = suite.stub(auth_rpc.AuthServiceStub)
    metadata = (*person.metadata, *from_address("192.0.2.33"))
    for _ in range(6):
        request = change(email=person.email, name="Ada")
        await users.UpdateUser(request, timeout=10, metadata=metadata)
    reset = auth.RequestPasswordResetRequest(email=person.email)
    await auth_stub.RequestPasswordReset(reset, timeout=10, metadata=from_address("192.0.2.33"))
    assert len(await suite.mails(person.email, count=2)) == 2


def mails_asked(suite: Suite, *people: Person) -> list[Any]:
    """How many changes of address each has asked for that were more than a repetition."""
    query = """
        SELECT user_id, count(*) FROM security_events
        WHERE kind = 'email_change_requested' AND user_id = ANY(CAST(%s AS uuid[])) GROUP BY user_id
    """
    return execute(suite, query, [person.user_id for person in people])
