"""The environment of workers, and the ports reserved for them."""

import contextlib
import socket

import pytest

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.server.ports import StartError, reserve_address
from tamatar_auth.workers.environment import environments
from tamatar_auth.workers.supervisor import MAX_RESTART_BACKOFF, restart_backoff

HERE = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def given(**settings):
    """Return the environments of three workers."""
    with environments(Settings.load(listen=HERE, workers=3, **settings)) as (_, of_each):
        return of_each


def free_ports():
    """Return the first of three consecutive free ports."""
    for first in range(20_000, 30_000, 3):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + 3):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no ports are free")


def test_listen_port_is_shared_by_all_workers():
    with environments(Settings.load(listen="localhost:0,127.0.0.1:0", workers=3)) as answer:
        addresses, of_each = answer

    assert all(address.port for address in addresses)
    assert {each["TAMATAR_LISTEN"] for each in of_each} == {",".join(map(str, addresses))}
    assert len(of_each) == 3


def test_metrics_ports_of_workers_are_consecutive():
    first = free_ports()
    listen = f"127.0.0.1:{first}"

    each = given(metrics_enabled=True, metrics_listen=listen)

    assert [one["TAMATAR_METRICS_LISTEN"] for one in each] == [
        f"127.0.0.1:{port}" for port in range(first, first + 3)
    ]
    assert "TAMATAR_METRICS_LISTEN" not in given(metrics_listen=listen)[0]


def test_taken_metrics_port_is_refused():
    first = free_ports()
    with (
        socket.create_server(("127.0.0.1", first + 2)),
        pytest.raises(StartError, match=f":{first + 2} is in use .* set TAMATAR_METRICS_LISTEN"),
    ):
        given(metrics_enabled=True, metrics_listen=f"127.0.0.1:{first}")


def test_random_page_token_key_is_shared_by_workers():
    (key,) = {each["TAMATAR_PAGE_TOKEN_KEY"] for each in given()}
    assert len(key) >= 32
    assert "TAMATAR_PAGE_TOKEN_KEY" not in given(page_token_key="k" * 32)[0]


def test_workers_get_database_url_they_cannot_read(monkeypatch):
    monkeypatch.setenv("tamatar_database_url", "")
    settings = Settings.load(listen=HERE, workers=2)
    url = "postgresql://ada@127.0.0.1/auth"

    with environments(settings.with_database(url)) as (_, of_each):
        assert of_each[0]["TAMATAR_DATABASE_URL"] == url
        assert "tamatar_database_url" not in of_each[0]

    monkeypatch.setenv("TAMATAR_PAGE_TOKEN_KEY", "k" * 32)
    monkeypatch.setenv("tamatar_database_url", url)
    with environments(Settings.load(listen=HERE, workers=2)) as (_, of_each):
        assert "TAMATAR_DATABASE_URL" not in of_each[0]


def test_reserved_port_counts_as_taken():
    with reserve_address(ListenAddress.parse(HERE)) as address:
        assert address.is_taken
        with pytest.raises(StartError, match="in use"), reserve_address(address):
            pass
    assert not address.is_taken


def test_port_with_lingering_connections_can_be_reserved():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
            assert caller.recv(1) == b""

    with reserve_address(ListenAddress("127.0.0.1", port)) as address:
        assert address.port == port


def test_address_of_other_machine_cannot_be_reserved():
    with (
        pytest.raises(StartError, match=r"192\.0\.2\.1:50051 cannot be listened on"),
        reserve_address(ListenAddress.parse("192.0.2.1:50051")),
    ):
        pass


def test_restart_backoff_grows_to_a_limit():
    pauses = [restart_backoff(deaths) for deaths in (*range(12), 5000)]

    assert pauses[:4] == [0, 0, 0.5, 1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_RESTART_BACKOFF
