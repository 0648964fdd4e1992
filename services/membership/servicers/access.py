"""guildhall.membership.v1.AccessService."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guildhall.membership.v1 import access_service_pb2 as pb
from guildhall.membership.v1 import access_service_pb2_grpc as rpc
from sqlalchemy import Row

from services.chassis.call import current_call
from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.membership import explanations, verdicts, wire
from services.membership.capabilities import MANAGE_GROUP_MEMBERS, SUSPEND_MEMBERS, UPDATE_ROLES, allows
from services.membership.members import Asking
from services.membership.servicers.access_streams import AccessStreamRpcs
from services.membership.verdicts import Question


@dataclass(frozen=True, slots=True)
class Hearing:
    """What who asks is told."""

    tells_hidden: bool
    """What the subject is banned from: whoever asks about others."""
    tells_suspension: bool
    """Of others' suspensions: those who suspend, and service accounts."""


class AccessService(AccessStreamRpcs, rpc.AccessServiceServicer):
    """Decides. For peers it is a leaf, so it asks nobody; for people it asks guest whether they still are one."""

    async def CheckAccess(self, request: pb.CheckAccessRequest, context: Any) -> pb.CheckAccessResponse:
        """About the caller; about others for service accounts, and for who manages members."""
        questions = _questions(request)
        rows = await self._database.read(lambda tx: verdicts.standings(tx, questions))
        hearing = await self._require_may_ask(request.workspace_id, rows)
        verdict = wire.verdict(rows[0], request.capability, tells_suspension=hearing.tells_suspension)
        return pb.CheckAccessResponse(verdict=verdict)

    async def ExplainAccess(self, request: pb.ExplainAccessRequest, context: Any) -> pb.ExplainAccessResponse:
        """The same, with the rules that were gone through."""
        questions = _questions(request)
        rows, details = await self._database.transaction(lambda tx: explanations.standings(tx, questions))
        hearing = await self._require_may_ask(request.workspace_id, rows)
        known = explanations.facts(
            rows[0],
            details,
            capability=request.capability,
            tells_hidden=hearing.tells_hidden,
            tells_suspension=hearing.tells_suspension,
        )
        return pb.ExplainAccessResponse(
            verdict=wire.verdict(rows[0], request.capability, tells_suspension=hearing.tells_suspension),
            steps=explanations.steps(known),
        )

    async def BatchCheckAccess(self, request: pb.BatchCheckAccessRequest, context: Any) -> pb.BatchCheckAccessResponse:
        """The verdicts, in the order of the questions."""
        questions = [
            Question(
                question.workspace_id,
                question.user_id or None,
                question.member_id or None,
                question.group_id or None,
            )
            for question in request.questions
        ]
        rows = await self._database.read(lambda tx: verdicts.standings(tx, questions), hot=True)
        return pb.BatchCheckAccessResponse(
            verdicts=[
                wire.verdict(row, question.capability) for row, question in zip(rows, request.questions, strict=True)
            ]
        )

    async def _require_may_ask(self, workspace_id: str, rows: Sequence[Row[Any]]) -> Hearing:
        """The same, and NotFound for a guest who has ended."""
        if len(rows) > 1 and rows[1].member_id is not None:
            # First: to who has ended, not even that they may not ask is told.
            await self._sight.require_present(Asking(str(rows[1].member_id), workspace_id, rows[1].kind))
        return _require_may_ask(rows)


def _questions(request: pb.CheckAccessRequest | pb.ExplainAccessRequest) -> list[Question]:
    """About the subject, and, unless a service account asks, about the caller. Errors: InvalidRequest."""
    user_id, group_id = current_call().user_id, request.group_id or None
    if not user_id and not request.WhichOneof("subject"):
        raise InvalidRequest(fields=[("subject", "must be set by a service account")])
    subject_user_id = request.user_id or (None if request.member_id else user_id)
    subject = Question(request.workspace_id, subject_user_id, request.member_id or None, group_id)
    return [subject, Question(request.workspace_id, user_id, None, group_id)] if user_id else [subject]


def _require_may_ask(rows: Sequence[Row[Any]]) -> Hearing:
    """What who asks is told, if they may ask; the second row is the caller's, if it is a person.

    A group that the caller does not see is none to ask about others in. Errors: NotFound, PermissionDenied.
    """
    if len(rows) == 1:
        return Hearing(tells_hidden=True, tells_suspension=True)
    subject, caller = rows
    if caller.member_id is None or caller.state == "suspended":
        raise NotFound
    if subject.member_id == caller.member_id:
        return Hearing(tells_hidden=False, tells_suspension=False)
    reason = verdicts.reason_of(caller, MANAGE_GROUP_MEMBERS)
    if not allows(caller, UPDATE_ROLES) and reason not in verdicts.ALLOWING:
        raise PermissionDenied
    if reason in verdicts.HIDING:
        raise NotFound
    return Hearing(tells_hidden=True, tells_suspension=allows(caller, SUSPEND_MEMBERS))
