"""The metadata of the tables: the names of constraints, and tables that only SQL reads.

Triggers of revision 0005 write these tables, and `session_events` reads them without SQLAlchemy.
"""

from typing import Any

from sqlalchemy import func, text, true
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.schema import CheckConstraint, Column, Index, MetaData, Table
from sqlalchemy.types import Boolean, DateTime, UserDefinedType, Uuid


class _Xid8(UserDefinedType[int]):
    """The number of a transaction, which is never used again."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


ischema_names["xid8"] = _Xid8


def new_metadata() -> MetaData:
    """Return metadata with the tables of session ends and of the primary's heartbeat."""
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    _add_session_ends(metadata)
    _add_primary_heartbeat(metadata)
    return metadata


def _add_session_ends(metadata: MetaData) -> None:
    """Add `session_ends`, and `session_end_log` with its state in one row.

    An end without a session is that of all sessions of the user. An end without a user is a gap.
    Ends of transactions before `removed_before` may be missing, those before `removed_to` are,
    and those before `marked` are removed next. A crash or a failover empties both tables.
    """
    Table(
        "session_ends",
        metadata,
        Column("xid", _Xid8, server_default=text("pg_current_xact_id()"), nullable=False),
        Column("user_id", Uuid),
        Column("session_id", Uuid),
        Index("idx_session_end_xid", "xid"),
        prefixes=["UNLOGGED"],
    )
    xmin = text("pg_snapshot_xmin(pg_current_snapshot())")
    Table(
        "session_end_log",
        metadata,
        Column("id", Boolean, server_default=true(), primary_key=True),
        Column("epoch", Uuid, server_default=func.gen_random_uuid(), nullable=False),
        Column("removed_before", _Xid8, server_default=text("'0'"), nullable=False),
        Column("removed_to", _Xid8, server_default=text("'0'"), nullable=False),
        Column("marked", _Xid8, server_default=xmin, nullable=False),
        Column("marked_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
        CheckConstraint("id", name="one_row"),
        prefixes=["UNLOGGED"],
    )


def _add_primary_heartbeat(metadata: MetaData) -> None:
    """Add `primary_heartbeat`: one row with the start of an acknowledged commit.

    The index finds the newest time at once, however many old versions of the row there are.
    """
    never = text("'-infinity'")
    Table(
        "primary_heartbeat",
        metadata,
        Column("id", Boolean, server_default=true(), primary_key=True),
        Column("sent_at", DateTime(timezone=True), server_default=never, nullable=False),
        Column("acknowledged_at", DateTime(timezone=True), server_default=never, nullable=False),
        CheckConstraint("id", name="one_row"),
        Index("idx_primary_heartbeat_acknowledged", "acknowledged_at"),
    )
