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


def select_service(ctx: typer.Context) -> ServiceContext:
    """Return the service to call.

    An address alone uses nothing of the current context, because the token of the context would
    be sent to another service.
    """
    options = service_options(ctx)
    set_variables = {name: os.environ.get(each) for name, each in _VARIABLES.items()}
    variables = {name: value for name, value in set_variables.items() if value}
    levels = (level for level in (options, variables) if level.keys() & {"address", "context"})
    return _with_token(_named_service(next(levels, {})), options, variables)


def _named_service(level: Mapping[str, str]) -> ServiceContext:
    address = level.get("address")
    if address is not None and "context" not in level:
        return ServiceContext(address=address)
    known = ContextFile()
    known.require()
    _, service = known.selected(level.get("context"))
    return service if address is None else replace(service, address=address)


def _with_token(
    service: ServiceContext, options: Mapping[str, str], variables: Mapping[str, str]
) -> ServiceContext:
    """Return the service with the token that an option or a variable provides, if one does."""
    if {"token", "token_file"} <= options.keys():
        raise usage_error("Use only one of --token and --token-file.")
    bare = replace(service, token=None, token_file=None, token_env=None)
    if "token_file" in options:
        return replace(bare, token_file=options["token_file"])
    if "token" in options:
        return replace(bare, token=parse_caller_token(options["token"], "of --token"))
    return replace(bare, token_env=TOKEN_VARIABLE) if "token" in variables else service
