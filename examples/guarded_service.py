"""A service for signed-in users. Run: python examples/guarded_service.py AUTH_ADDRESS [LISTEN]."""
# ruff: noqa: INP001, T201 - a script, which prints

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from tamatar_auth.client import SessionGuard, connect, current_session


def who_am_i(_request: StringValue, _context: grpc.ServicerContext) -> StringValue:
    """Return the email address of the signed-in user."""
    return StringValue(value=current_session().user.email)


guard = SessionGuard(connect(sys.argv[1]), open_methods=["example.Shop/ListWares"])
server = grpc.server(ThreadPoolExecutor(8), interceptors=[guard])
methods = {
    "WhoAmI": grpc.unary_unary_rpc_method_handler(
        who_am_i, StringValue.FromString, StringValue.SerializeToString
    ),
}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example.Shop", methods)])
port = server.add_insecure_port(sys.argv[2] if sys.argv[2:] else "127.0.0.1:50061")
server.start()
print("listening on port", port, flush=True)
with suppress(KeyboardInterrupt):
    server.wait_for_termination()
