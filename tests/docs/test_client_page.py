"""docs/guide/client.md: the code of the page does what the page says."""

import re

import grpc
import pytest
from grpc import StatusCode

from tests.support.calls import read_refusal
from tests.support.commands import ROOT
from tests.support.waiting import PATIENCE

PAGE = (ROOT / "docs/guide/client.md").read_text()
CALLS, GUARDS = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
ADDRESS = "auth.example.com:50051"


def run_block(code, address):
    """Run code of the page with a service at an address; return its names."""
    names = {"token": "tmc_of_this_caller"}
    exec(code.replace(ADDRESS, address), names)  # noqa: S102 - it is the page's
    return names


def test_client_page_calls_find_user_or_none(fake):
    assert ADDRESS in CALLS
    assert run_block(CALLS, fake.address)["user"] is None

    ada = fake.add_user("ada@example.com")

    assert run_block(CALLS, fake.address)["user"] == ada


def test_client_page_guard_accepts_signed_in_user_only(fake):
    assert ADDRESS in GUARDS
    token = fake.start_session(fake.add_user("ada@example.com", first_name="Ada"))
    names = run_block(GUARDS, fake.address)
    server = names["server"]
    handlers = {"Hello": grpc.unary_unary_rpc_method_handler(names["hello"])}
    server.add_registered_method_handlers("shop.v1.Shop", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            hello = channel.unary_unary("/shop.v1.Shop/Hello")
            bearer = (("authorization", f"Bearer {token}"),)
            assert hello(b"", metadata=bearer, timeout=PATIENCE) == b"Hello, Ada!"
            with pytest.raises(grpc.RpcError) as refused:
                hello(b"", timeout=PATIENCE)
            assert refused.value.code() == StatusCode.UNAUTHENTICATED
            assert read_refusal(refused.value).reason == "SESSION_UNKNOWN"
    finally:
        server.stop(None).wait()
        names["guard"].close()
