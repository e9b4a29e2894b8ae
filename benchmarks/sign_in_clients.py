"""Clients that sign in without pause, in a process of their own. Prints their results as JSON.

A rejected client tries again at once, and ignores `RetryInfo`.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import grpc
import uvloop
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks.calls import PASSWORD, email
from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub


@dataclass(slots=True)
class SignInResults:
    """The results of the clients. Times are seconds."""

    signed_in: list[float] = field(default_factory=list)
    """When each session was created."""
    refused: list[float] = field(default_factory=list)
    """Durations of the calls that failed with SERVER_BUSY."""
    others: list[str] = field(default_factory=list)
    """The reasons of all other failures."""


async def sign_in(address: str, clients: int, seconds: float) -> SignInResults:
    """Sign users in until the time is over. Each client is a user of its own."""
    results, end = SignInResults(), time.perf_counter() + seconds

    async def sign_in_repeatedly(stub: Any, number: int) -> None:
        request = CreateSessionRequest(email=email(number), password=PASSWORD)
        while (began := time.perf_counter()) < end:
            try:
                await stub.CreateSession(request, timeout=60)
            except grpc.aio.AioRpcError as error:
                reason = _reason(error)
                if reason == "SERVER_BUSY":
                    results.refused.append(time.perf_counter() - began)
                else:
                    results.others.append(reason)
            else:
                results.signed_in.append(time.perf_counter())

    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = SessionServiceStub(channel)
        await asyncio.gather(*(sign_in_repeatedly(stub, number) for number in range(clients)))
    return results


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(cast("grpc.Call", error))
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return error.code().name


if __name__ == "__main__":
    _address, _clients, _seconds = sys.argv[1:]
    print(json.dumps(asdict(uvloop.run(sign_in(_address, int(_clients), float(_seconds))))))
