"""The commands of `user factors`."""

from typing import Annotated

import typer

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1.factor_pb2 import Factor
from tamatar_auth.cli.exits import CommandError, ExitCode
from tamatar_auth.cli.formats import (
    Listing,
    OutputFormat,
    OutputOption,
    TextFormat,
    TextOption,
    plain_name,
    show,
    show_all,
)
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import YesOption, confirm, open_client
from tamatar_auth.cli.remote.users import UserArgument, get_user, get_user_id
from tamatar_auth.client import AuthClient

FACTORS = Listing(
    field="factors",
    columns={
        "factor_id": "Id",
        "kind": "Kind",
        "label": "Label",
        "last_use_time": "Last used",
        "confirm_time": "Confirmed",
        "remaining_code_count": "Codes left",
        "create_time": "Created",
    },
    kept=2,
)


def show_factors(
    who: UserArgument, *, output: OutputOption = OutputFormat.TABLE, ctx: typer.Context
) -> None:
    """List the second factors of a user. The oldest comes first."""
    with open_client(ctx) as auth:
        request = pb.ListFactorsRequest(user_id=get_user_id(auth, who))
        answer = auth.factors.ListFactors(request)
    show_all(as_dict(answer), output, FACTORS)


def delete(
    who: UserArgument,
    factor_id: Annotated[str, typer.Argument(help="The id of the factor.")],
    *,
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Remove a second factor of a user. The user's sessions stay: see `session revoke-user`."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        factor = _get(auth, user.user_id, factor_id)
        name = " ".join(filter(None, (plain_name("kind", as_dict(factor)["kind"]), factor.label)))
        confirm(f"Remove the factor {name} of {user.email}?", yes=yes)
        response = auth.factors.DeleteFactor(pb.DeleteFactorRequest(factor_id=factor.factor_id))
    show(as_dict(response.factor), output, name="factor_id")


def reset_recovery(
    who: UserArgument,
    *,
    yes: YesOption = False,
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """Replace the recovery codes of a user. The new codes are printed only now."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        confirm(f"Replace all recovery codes of {user.email}?", yes=yes)
        request = pb.CreateRecoveryCodesRequest(user_id=user.user_id)
        response = auth.factors.CreateRecoveryCodes(request)
    notify(f"For {user.email}. Each code works once, and earlier codes no longer work.")
    if output is TextFormat.JSON:
        print_json(as_dict(response))
    else:
        typer.echo("\n".join(response.codes))


def _get(auth: AuthClient, user_id: str, factor_id: str) -> Factor:
    """Return a factor of a user. An id of another user's factor ends the command."""
    found = auth.factors.ListFactors(pb.ListFactorsRequest(user_id=user_id)).factors
    for factor in found:
        if factor.factor_id == factor_id.lower():
            return factor
    raise CommandError("The user has no such factor. (FACTOR_NOT_FOUND)", ExitCode.NOT_FOUND)
