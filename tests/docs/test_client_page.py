"""docs/guide/client.md: the code of the page does what the page says."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from grpc import StatusCode

from tamatar_auth.client import AAL2
from tests.support.calls import read_refusal
from tests.support.commands import ROOT
from tests.support.waiting import PATIENCE

PAGE = (ROOT / "docs/guide/client.md").read_text()
CALLS, GUARDS, STEP_UP = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
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


def test_client_page_guard_asks_for_step_up(fake):
    ada = fake.add_user("ada@example.com")
    guard = run_block(STEP_UP, fake.address)["guard"]
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"paid")
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[guard])
    server.add_registered_method_handlers("shop.v1.Shop", {"Pay": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def pay(token):
        bearer = (("authorization", f"Bearer {token}"),)
        return channel.unary_unary("/shop.v1.Shop/Pay")(b"", metadata=bearer, timeout=PATIENCE)

    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert pay(fake.start_session(ada, level=AAL2)) == b"paid"
            with pytest.raises(grpc.RpcError) as refused:
                pay(fake.start_session(ada, authentication_age=timedelta(hours=1)))
            found = read_refusal(refused.value)
            assert found.reason == "STEP_UP_REQUIRED"
            missing = {"assurance_level": "AAL2", "max_authentication_age": "300"}
            assert found.metadata == missing
    finally:
        server.stop(None).wait()
        guard.close()
