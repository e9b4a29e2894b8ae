"""The methods of SessionService that raise the level of a session."""

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar_auth.client.testing.servicers.sign_in import STEP_UP, challenge_message, check_proof
from tamatar_auth.client.testing.store import FakeStore


class FakeStepUpMethods:
    """Proves again who the user of a session is."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def BeginStepUp(self, request: pb.BeginStepUpRequest) -> pb.BeginStepUpResponse:
        session, record = self._store.sessions.validate(request.session_token)
        issued = self._store.challenges.issue(STEP_UP, session.user_id, session.session_id)
        more = [FactorKind.FACTOR_KIND_PASSWORD] if record.password else []
        challenge = challenge_message(self._store, issued, *more)
        return pb.BeginStepUpResponse(challenge=challenge)

    def CompleteStepUp(self, request: pb.CompleteStepUpRequest) -> pb.CompleteStepUpResponse:
        session, record = self._store.sessions.validate(request.session_token)
        challenge = self._store.challenges.answer(
            request.challenge_token, [STEP_UP], session.session_id
        )
        proof = check_proof(self._store, challenge, request)
        self._store.challenges.use(challenge)
        proof.use()
        raised = self._store.sessions.step_up(session.session_id, proof.methods)
        return pb.CompleteStepUpResponse(
            session=raised.session, user=record.user, session_token=raised.tokens[-1]
        )
