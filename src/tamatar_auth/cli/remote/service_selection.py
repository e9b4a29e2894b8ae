"""Which service a command calls: options first, then variables, then the current context."""

import os
from collections.abc import Mapping
from dataclasses import replace

import typer

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.global_options import (
    ADDRESS_VARIABLE,
    CONTEXT_VARIABLE,
    TOKEN_VARIABLE,
    service_options,
)
from tamatar_auth.cli.remote.context_file import (
    ContextFile,
    ServiceContext,
    parse_caller_token,
)

_VARIABLES = {"address": ADDRESS_VARIABLE, "context": CONTEXT_VARIABLE, "token": TOKEN_VARIABLE}
_NAMES = {"address", "context"}
"""The options that name a service."""


def select_service(ctx: typer.Context) -> ServiceContext:
    """Return the service to call.

    An address alone uses nothing of the current context, because the token of the context would
    be sent to another service.
    """
    options = service_options(ctx)
    set_variables = {name: os.environ.get(each) for name, each in _VARIABLES.items()}
    variables = {name: value for name, value in set_variables.items() if value}
    service = _named_service(options if options.keys() & _NAMES else variables)
    has_variable = "token" in variables and _is_for_called_service(options, variables)
    return _with_token(service, options, token_env=TOKEN_VARIABLE if has_variable else None)


def _is_for_called_service(options: Mapping[str, str], variables: Mapping[str, str]) -> bool:
    """Return whether the token of the variable may be sent to the service that is called.

    A context has its own token. If variables name a service, the token is for that service.
    """
    if "context" in options:
        return False
    named = variables.get("address") if variables.keys() & _NAMES else options.get("address")
    return options.get("address", named) == named


def _named_service(level: Mapping[str, str]) -> ServiceContext:
    address = level.get("address")
    if address is not None and "context" not in level:
        return ServiceContext(address=address)
    known = ContextFile()
    known.require()
    _, service = known.selected(level.get("context"))
    return service if address is None else replace(service, address=address)


def _with_token(
    service: ServiceContext, options: Mapping[str, str], *, token_env: str | None
) -> ServiceContext:
    """Return the service with the token of an option or of a variable, if one of them has one."""
    if {"token", "token_file"} <= options.keys():
        raise usage_error("Use only one of --token and --token-file.")
    bare = replace(service, token=None, token_file=None, token_env=None)
    if "token_file" in options:
        return replace(bare, token_file=options["token_file"])
    if "token" in options:
        return replace(bare, token=parse_caller_token(options["token"], "of --token"))
    return service if token_env is None else replace(bare, token_env=token_env)
