"""docs/guide/client.md: the code of the page does what the page says."""

import re

import grpc
import pytest
from grpc import StatusCode

from tamatar_auth.client.testing import FakeAuthServer
from tests.support.calls import read_refusal
from tests.support.commands import ROOT

PAGE = (ROOT / "docs/guide/client.md").read_text()
CALLS, GUARDS, TESTS = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
ADDRESS = "auth.example.com:50051"


def run_block(code, address):
    """Run code of the page, whose service is at an address; return its names."""
    names = {"token": "tmc_of_this_caller"}
    exec(code.replace(ADDRESS, address), names)  # noqa: S102 - it is the page's
    return names


def test_a_user_is_read_or_is_not_there(fake):
    assert ADDRESS in CALLS
    assert run_block(CALLS, fake.address)["user"] is None

    ada = fake.add_user("ada@example.com")

    assert run_block(CALLS, fake.address)["user"] == ada


def test_a_guarded_server_knows_who_calls_and_keeps_others_out(fake):
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
            assert hello(b"", metadata=bearer, timeout=20) == b"Hello, Ada!"
            with pytest.raises(grpc.RpcError) as refused:
                hello(b"", timeout=20)
            assert refused.value.code() == StatusCode.UNAUTHENTICATED
            assert read_refusal(refused.value).reason == "SESSION_UNKNOWN"
    finally:
        server.stop(None).wait()
        names["guard"].close()


def test_the_fake_service_does_what_the_page_has_it_do():
    also = re.search(r"# also (.*)$", TESTS, re.MULTILINE)[1].split(", ")

    names = run_block(TESTS, "nowhere")

    assert names["ada"].email == "ada@example.com"
    assert names["token"].startswith("tms_")
    assert not names["fake"].is_available
    assert all(callable(getattr(FakeAuthServer, name)) for name in also)
