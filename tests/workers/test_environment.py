"""What workers are given by their supervisor, and which ports are kept for them."""

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
    """What three workers are given."""
    with environments(Settings.load(listen=HERE, workers=3, **settings)) as (_, of_each):
        return of_each


def free_ports():
    """The first of three ports in a row that nobody has."""
    for first in range(20_000, 30_000, 3):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + 3):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no ports are free")


def test_a_port_is_one_for_all_workers():
    with environments(Settings.load(listen="localhost:0,127.0.0.1:0", workers=3)) as answer:
        addresses, of_each = answer

    assert all(address.port for address in addresses)
    assert {each["TAMATAR_LISTEN"] for each in of_each} == {",".join(map(str, addresses))}
    assert len(of_each) == 3


def test_each_worker_has_the_next_port_for_its_metrics():
    first = free_ports()
    listen = f"127.0.0.1:{first}"

    each = given(metrics_enabled=True, metrics_listen=listen)

    assert [one["TAMATAR_METRICS_LISTEN"] for one in each] == [
        f"127.0.0.1:{port}" for port in range(first, first + 3)
    ]
    assert "TAMATAR_METRICS_LISTEN" not in given(metrics_listen=listen)[0]


def test_a_port_for_metrics_that_is_taken_is_refused():
    first = free_ports()
    with (
        socket.create_server(("127.0.0.1", first + 2)),
        pytest.raises(StartError, match=f":{first + 2} is in use .* set TAMATAR_METRICS_LISTEN"),
    ):
        given(metrics_enabled=True, metrics_listen=f"127.0.0.1:{first}")


def test_a_random_key_of_pages_is_one_for_all_workers():
    (key,) = {each["TAMATAR_PAGE_TOKEN_KEY"] for each in given()}
    assert len(key) >= 32
    assert "TAMATAR_PAGE_TOKEN_KEY" not in given(page_token_key="k" * 32)[0]


def test_workers_are_told_of_a_database_that_they_cannot_read_themselves(monkeypatch):
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


def test_a_port_that_is_kept_is_seen_before_a_worker_listens():
    with reserve_address(ListenAddress.parse(HERE)) as address:
        assert address.is_taken
        with pytest.raises(StartError, match="in use"), reserve_address(address):
            pass
    assert not address.is_taken


def test_a_port_whose_connections_are_about_to_end_can_be_kept():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            accepted, _ = listener.accept()
            accepted.close()  # whoever closes first remembers the connection for a minute
            assert caller.recv(1) == b""

    with reserve_address(ListenAddress("127.0.0.1", port)) as address:
        assert address.port == port


def test_an_address_of_another_machine_cannot_be_kept():
    with (
        pytest.raises(StartError, match=r"192\.0\.2\.1:50051 cannot be listened on"),
        reserve_address(ListenAddress.parse("192.0.2.1:50051")),
    ):
        pass


def test_the_pause_of_one_who_dies_grows_to_a_limit():
    pauses = [restart_backoff(deaths) for deaths in (*range(12), 5000)]

    assert pauses[:4] == [0, 0, 0.5, 1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_RESTART_BACKOFF
