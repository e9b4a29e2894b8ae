"""The methods of UserService that list and count users."""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.client.testing.errors import invalid_field
from tamatar_auth.client.testing.identifiers import normalize_prefix
from tamatar_auth.client.testing.servicers.pages import Pages
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.users import UserRecord

_ORDERS = ("create_time", "update_time", "email")


class FakeListMethods:
    """Lists and counts users."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self._pages = Pages()

    def ListUsers(self, request: pb.ListUsersRequest) -> pb.ListUsersResponse:
        matching = self._matching(request.filter)
        column, descending = _order(request.order_by)

        def key(record: UserRecord) -> tuple[object, int]:
            value = getattr(record.user, column)
            return value.ToNanoseconds() if isinstance(value, Timestamp) else value, record.number

        query = (column, descending, request.filter.SerializeToString(deterministic=True))
        page, token = self._pages.cut(matching, request, query, key=key, descending=descending)
        return pb.ListUsersResponse(
            users=[record.user for record in page],
            next_page_token=token,
            total_size=len(matching) if request.include_total else None,
        )

    def GetUserStats(self, request: pb.GetUserStatsRequest) -> pb.GetUserStatsResponse:
        times = [record.user.create_time for record in self._matching(request.filter)]
        times.sort(key=Timestamp.ToNanoseconds)
        return pb.GetUserStatsResponse(
            user_count=len(times),
            first_create_time=times[0] if times else None,
            last_create_time=times[-1] if times else None,
        )

    def _matching(self, conditions: pb.UserFilter) -> Sequence[UserRecord]:
        for name in ("created_from", "created_before"):
            _check_time(conditions, name)
        return [record for record in self._store.users if _matches(record, conditions)]


def _matches(record: UserRecord, conditions: pb.UserFilter) -> bool:
    user, created = record.user, record.user.create_time.ToNanoseconds()
    is_set = conditions.HasField
    wants_deleted = conditions.deleted == pb.DELETED_FILTER_ONLY
    return (
        (conditions.deleted == pb.DELETED_FILTER_INCLUDE or record.is_deleted is wants_deleted)
        and user.email.startswith(normalize_prefix(conditions.email_prefix))
        and user.username.startswith(normalize_prefix(conditions.username_prefix))
        and (not is_set("email_verified") or conditions.email_verified is user.email_verified)
        and (not is_set("is_active") or conditions.is_active is user.is_active)
        and (not is_set("created_from") or created >= conditions.created_from.ToNanoseconds())
        and (not is_set("created_before") or created < conditions.created_before.ToNanoseconds())
    )


def _check_time(conditions: pb.UserFilter, name: str) -> None:
    stamp: Timestamp = getattr(conditions, name)
    try:
        stamp.ToDatetime()
    except (ValueError, OverflowError):
        raise invalid_field(f"filter.{name}", "must be a time of the years 1 to 9999") from None


def _order(order_by: str) -> tuple[str, bool]:
    """Return the field of an order, and whether it descends; or raise `RefusedError`."""
    match order_by.split():
        case []:
            return "create_time", False
        case [name] if name in _ORDERS:
            return name, False
        case [name, "desc"] if name in _ORDERS:
            return name, True
    allowed = f"must be one of {', '.join(_ORDERS)}, optionally followed by desc"
    raise invalid_field("order_by", allowed)
