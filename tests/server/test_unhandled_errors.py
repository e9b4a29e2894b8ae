"""Exceptions that no code handles: one JSON line, counted, and exit code 1 if it is fatal."""

import sys
from urllib.request import urlopen

import pytest

from tests.support.commands import serving
from tests.support.waiting import until

FAULTS = """
import asyncio, gc, os, socket, sys, threading, time
from tamatar_auth.config.settings import Settings
from tamatar_auth.server import run

class Fault(Exception): pass

def fails(*_):
    raise Fault

async def coroutine():
    fails()

def callback(loop):
    loop.call_later(0.1, fails)

def callback_of_a_task(loop):
    asyncio.ensure_future(asyncio.sleep(0.1)).add_done_callback(fails)

def reader(loop):
    ends = socket.socketpair()
    loop.add_reader(ends[0], fails)
    ends[1].send(b"x")

def signal(loop):
    loop.add_signal_handler(12, fails)
    loop.call_later(0.1, os.kill, os.getpid(), 12)

def thread(loop):
    threading.Thread(target=fails, name="stop with parent").start()

def task(loop):
    loop.create_task(coroutine())

def telemetry_thread(loop):
    threading.Thread(target=fails, name="metrics").start()

def destructor(loop):
    type("Closes", (), {"__del__": fails})()

def ready(addresses):
    globals()[sys.argv[1]](asyncio.get_running_loop())

run.serve(Settings.load(listen="127.0.0.1:0"), ready)
"""


def faulty(folder, fault, url, **env):
    script = folder / "faulty.py"
    script.write_text(FAULTS)
    command = (sys.executable, script, fault)
    return serving(
        cwd=folder, command=command, TAMATAR_DATABASE_URL=url, TAMATAR_LISTEN="127.0.0.1:0", **env
    )


class TestFatalErrors:
    """Errors after which the state of the process is unknown."""

    @pytest.mark.parametrize(
        ("fault", "origin"),
        [
            ("callback", "callback"),
            ("callback_of_a_task", "callback"),
            ("reader", "callback"),
            ("signal", "callback"),
            ("thread", "thread"),
        ],
    )
    def test_fatal_error_is_logged_once_and_ends_process(
        self, tmp_path, database_url, fault, origin
    ):
        with faulty(tmp_path, fault, database_url) as server:
            assert server.ended() == 1
            assert all(line.startswith("{") for line in server.said.splitlines())
            lines = [line for line in server.logs if "Fault" in line.get("exception", "")]

        assert [(line["level"], line["event"], line["origin"]) for line in lines] == [
            ("critical", "unhandled exception", origin)
        ]


class TestConfinedErrors:
    """Errors that affect only the work of their task, thread or object."""

    @pytest.mark.parametrize(
        ("fault", "origin"),
        [("task", "task"), ("telemetry_thread", "thread"), ("destructor", "destructor")],
    )
    def test_confined_error_is_logged_and_counted(self, tmp_path, database_url, fault, origin):
        metrics = {"TAMATAR_METRICS_ENABLED": "true", "TAMATAR_METRICS_LISTEN": "127.0.0.1:0"}
        with faulty(tmp_path, fault, database_url, **metrics) as server:
            until(lambda: server.events("unhandled exception"))
            (line,) = server.events("unhandled exception")
            (telemetry,) = server.events("telemetry")
            with urlopen(f"http://{telemetry['metrics_address']}/metrics") as answer:
                page = answer.read().decode()
            assert server.process.poll() is None
            assert all(written.startswith("{") for written in server.said.splitlines())

        assert (line["level"], line["origin"]) == ("error", origin)
        assert f'tamatar_error_unhandled_total{{tamatar_error_origin="{origin}"}} 1.0' in page
