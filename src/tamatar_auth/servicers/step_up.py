"""The methods of SessionService that prove again who a user is."""

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.servicers import Context


class StepUpMethods:
    """Raises the level of sessions."""

    async def BeginStepUp(
        self, request: pb.BeginStepUpRequest, context: Context
    ) -> pb.BeginStepUpResponse:
        raise NotImplementedError

    async def CompleteStepUp(
        self, request: pb.CompleteStepUpRequest, context: Context
    ) -> pb.CompleteStepUpResponse:
        raise NotImplementedError
