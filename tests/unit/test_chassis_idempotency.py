"""Repeatable calls, as far as no database is needed for it."""

from typing import Any

import pytest
from guildhall.identity.v1 import auth_service_pb2 as pb

from services.chassis.call import CURRENT, Call
from services.chassis.idempotency import no_access_needed, once
from services.chassis.secret import SecretKey


async def test_an_open_rpc_must_say_what_its_request_is_about() -> None:
    call = Call(rpc="/x/Y", request_id="r", peer="gateway", deadline=0)
    token = CURRENT.set(call)
    nobody: Any = None
    try:
        with pytest.raises(ValueError, match="strangers would share keys"):
            await once(
                nobody,
                SecretKey(b"0" * 32),
                pb.SignInRequest(),
                pb.SignInResponse,
                access=no_access_needed,
                work=nobody,
            )
    finally:
        CURRENT.reset(token)
