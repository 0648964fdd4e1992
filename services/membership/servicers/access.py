"""guildhall.membership.v1.AccessService."""

from typing import Any

from guildhall.membership.v1 import access_service_pb2 as pb
from guildhall.membership.v1 import access_service_pb2_grpc as rpc

from services.chassis.database import Database
from services.membership import revisions, verdicts, wire


class AccessService(rpc.AccessServiceServicer):
    """Decides for the other services; a leaf, so it asks nobody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def BatchCheckAccess(self, request: pb.BatchCheckAccessRequest, context: Any) -> pb.BatchCheckAccessResponse:
        """The verdicts, in the order of the questions."""
        questions = [
            verdicts.Question(question.workspace_id, question.user_id or None, question.member_id or None)
            for question in request.questions
        ]
        rows = await self._database.read(lambda tx: verdicts.standings(tx, questions))
        return pb.BatchCheckAccessResponse(
            verdicts=[
                wire.verdict(row, question.capability) for row, question in zip(rows, request.questions, strict=True)
            ]
        )

    async def GetAccessRevisions(
        self, request: pb.GetAccessRevisionsRequest, context: Any
    ) -> pb.GetAccessRevisionsResponse:
        """The revisions, in the order of the workspaces."""
        found = await self._database.read(lambda tx: revisions.access_revisions(tx, request.workspace_ids))
        return pb.GetAccessRevisionsResponse(access_revisions=found)
