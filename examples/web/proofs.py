"""The forms that answer a challenge, and the answers."""
# ruff: noqa: INP001 - a module of an example

from http import HTTPStatus

from pages import form, links, page, passkey_form, read_form, text
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_service_pb2 import Challenge

KINDS = {
    FactorKind.FACTOR_KIND_TOTP: ("totp_code", "Confirm the code"),
    FactorKind.FACTOR_KIND_PASSWORD: ("password", "Confirm the password"),
    FactorKind.FACTOR_KIND_RECOVERY_CODES: ("recovery_code", "Use a recovery code"),
}
SIGN_IN_PROOFS = ("totp_code", "recovery_code", "passkey_credential_json")
STEP_UP_PROOFS = (*SIGN_IN_PROOFS, "password")


def challenge_forms(action: str, challenge: Challenge, **hidden: str) -> list[str]:
    """Return a form for each kind of factor that answers a challenge."""
    hidden |= {"challenge_token": challenge.challenge_token}
    options = challenge.passkey_options_json
    forms = []
    if options:
        more = {"passkey_credential_json": ""} | hidden
        forms.append(passkey_form(action, "Use your passkey", get=options, **more))
    for kind, (name, button) in KINDS.items():
        if kind in challenge.kinds:
            forms.append(form(action, button, name, **hidden))
    return forms


async def posted_answer(request: Request, *proofs: str) -> dict[str, str]:
    """Return the token and a proof, named as in CompleteSignIn and CompleteStepUp."""
    fields = await read_form(request)
    answer = {name: fields[name] for name in ("challenge_token", *proofs) if name in fields}
    if answer.keys() <= {"challenge_token"}:  # such as of a passkey without the script
        raise HTTPException(400, "A field is empty.")
    return answer


def ask_again(action: str, answer: dict[str, str], start: str, **hidden: str) -> Response:
    """Return the page after a wrong proof. After five of them a challenge is void."""
    hidden |= {"challenge_token": answer.get("challenge_token", "")}
    forms = [
        form(action, button, name, **hidden) for name, button in KINDS.values() if name in answer
    ]
    words = text("It was wrong, was used before, or came too late.")
    again = links(Begin_again=start)
    return page("That did not work", words, *forms, again, status_code=HTTPStatus.FORBIDDEN)
