"""The use cases whose statements are made to fail: all there are, by the contracts."""

from services.chassis import contracts
from tests.faults.identity_use_cases import IDENTITY, LEFT_OUT
from tests.faults.statements_fail import AGAIN, CONTROLS
from tests.faults.use_cases import USE_CASES
from tests.service.test_membership_revisions import WITHOUT_KEY
from tests.support.reflected import mutates


def short(rpc: contracts.Rpc) -> str:
    return f"{rpc.service.split('.')[1]}.{rpc.service.rsplit('.', 1)[1]}/{rpc.method}"


def test_every_rpc_that_changes_something_is_among_them_or_left_out_for_a_reason() -> None:
    changing = {short(rpc) for rpc in contracts.rpcs().values() if mutates(rpc) or rpc.method in WITHOUT_KEY}
    tried = {case.rpc for case in (*USE_CASES.values(), *IDENTITY.values())}

    assert changing - tried == set(LEFT_OUT)
    assert tried <= changing


def test_the_exceptions_and_the_controls_are_of_use_cases_that_exist() -> None:
    assert set(AGAIN) <= {case.rpc for case in USE_CASES.values()}
    assert set(CONTROLS) <= set(USE_CASES)
