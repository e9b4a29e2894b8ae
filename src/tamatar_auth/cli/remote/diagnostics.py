"""The command `whoami` and the commands of `db`."""

from textwrap import shorten

import typer

from tamatar.auth.v1 import diagnostics_service_pb2 as pb
from tamatar_auth.cli.formats import Listing, OutputFormat, OutputOption, show, show_all
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import open_client

QUERIES = Listing(
    field="queries",
    columns={
        "query": "Query",
        "total_seconds": "Seconds",
        "mean_seconds": "Mean",
        "calls": "Calls",
        "rows": "Rows",
    },
)

QUERY_WIDTH = 40
"""Characters of a statement in a table. `-o wide` prints whole statements."""


def whoami(*, output: OutputOption = OutputFormat.TABLE, ctx: typer.Context) -> None:
    """Show this caller's name and roles, as the service does."""
    with open_client(ctx) as auth:
        response = auth.diagnostics.GetCaller(pb.GetCallerRequest())
    show(as_dict(response), output, name="name")


def database_info(*, output: OutputOption = OutputFormat.TABLE, ctx: typer.Context) -> None:
    """Show the connections and the versions. `pool` is that of the process that answers."""
    with open_client(ctx) as auth:
        response = auth.diagnostics.GetDatabaseInfo(pb.GetDatabaseInfoRequest())
    show(as_dict(response), output, name="server_version")


def slowest_queries(*, output: OutputOption = OutputFormat.TABLE, ctx: typer.Context) -> None:
    """List the statements that took the most time. At most ten are listed."""
    with open_client(ctx) as auth:
        answer = as_dict(auth.diagnostics.ListSlowestQueries(pb.ListSlowestQueriesRequest()))
    if output in {OutputFormat.TABLE, OutputFormat.WIDE}:
        for query in answer["queries"]:
            for name in ("total_seconds", "mean_seconds"):
                query[name] = f"{query[name]:.4f}"
            if output is OutputFormat.TABLE:
                query["query"] = shorten(query["query"], QUERY_WIDTH, placeholder=" …")
    show_all(answer, output, QUERIES)
