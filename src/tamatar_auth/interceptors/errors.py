"""Turns the exceptions of handlers into gRPC statuses.

No other place does, so no call ends UNKNOWN and no text of an exception reaches a caller. The
statuses follow AIP-193 (https://google.aip.dev/193).
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Mapping
from typing import Any

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc._cython import cygrpc
from grpc.aio import AbortError
from grpc_status import rpc_status

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.errors import Failure, InternalFault
from tamatar_auth.errors.storage import ConstraintViolated, StorageTimedOut
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.storage import sqlstates

DOMAIN = "auth.tamatar.dev"

_CODES: Mapping[str, Code.ValueType] = dict(Code.items())

MAX_VIOLATIONS = 20
"""Field violations in one status: gRPC replaces a status of more than about 8 KiB."""

log = structlog.get_logger(__name__)


class ErrorInterceptor(Interceptor):
    """Answers every exception with its status."""

    def __init__(self) -> None:
        reasons = set(ErrorReason.keys())
        for failure in Failure.__subclasses__():
            if failure.code not in _CODES or failure.reason not in reasons:
                raise LookupError(f"{failure.__name__} has an unknown code or reason")

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Catch every exception of the behaviour."""

        async def guarded(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except (AbortError, asyncio.CancelledError, cygrpc.ExecuteBatchError):
                raise  # the call has ended: an ExecuteBatchError means that its client left
            except Exception as error:  # noqa: BLE001 - no exception may pass
                failure = _failure(error, method, context)
            return await context.abort_with_status(rpc_status.to_status(status(failure)))

        return guarded


def status(failure: Failure) -> Status:
    """Return the status of a failure, with its details."""
    details: list[Message] = [
        ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=dict(failure.metadata))
    ]
    if failure.violations:
        shown = failure.violations[:MAX_VIOLATIONS]
        broken_rules = [BadRequest.FieldViolation(**one._asdict()) for one in shown]
        details.append(BadRequest(field_violations=broken_rules))
    if failure.retry_after is not None:
        delay = Duration()
        jitter = random.uniform(1, 1 + failure.retry_jitter)  # noqa: S311 - jitter
        delay.FromMilliseconds(round(failure.retry_after * jitter * 1000))
        details.append(RetryInfo(retry_delay=delay))
    answer = Status(code=_CODES[failure.code], message=failure.message)
    for detail in details:
        answer.details.add().Pack(detail)
    return answer


def _failure(error: Exception, method: Method, context: Context) -> Failure:
    if isinstance(error, Failure):
        return error
    if sqlstates.sqlstate(error) in sqlstates.CANCELLED_WAITS and _deadline_passed(context):
        return StorageTimedOut()
    failure = sqlstates.to_failure(error)
    where = {"method": f"{method.service}/{method.name}", "sqlstate": sqlstates.sqlstate(error)}
    if isinstance(failure, ConstraintViolated):  # no servicer expects it
        constraint = sqlstates.constraint(error)
        log.warning("storage refused", reason=failure.reason, constraint=constraint, **where)
        return failure
    if failure is not None and sqlstates.is_partition_missing(error):
        log.error("sessions have no partition: run `tamatar-auth sweep`", **where)
        return failure
    if failure is not None:
        level = logging.WARNING if failure.code == "UNAVAILABLE" else logging.DEBUG
        log.log(level, "storage refused", reason=failure.reason, **where)
        return failure
    error_id = secrets.token_hex(8)
    log.error("call failed", error_id=error_id, **where, exc_info=error)
    return InternalFault(error_id)


def _deadline_passed(context: Context) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0
