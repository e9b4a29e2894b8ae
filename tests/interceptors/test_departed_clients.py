"""Clients that read nothing, or leave: their streams are counted, and are no errors."""

import asyncio
import socket
import struct
import sys
from urllib.request import urlopen

import grpc
import psycopg

from tamatar.auth.v1.user_service_pb2 import ExportUsersRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.support.commands import serving
from tests.support.waiting import eventually

IMPATIENT_SERVER = """
from tamatar_auth.interceptors import base
base.WRITE_TIMEOUT, base.CANCELLED_WRITE_TIMEOUT = 0.3, 0.1
from tamatar_auth.__main__ import main
main()
"""

UNREAD = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096)]
"""Options of a client that receives nothing unless it reads."""

ADD_USERS = """
    INSERT INTO users (id, email, avatar_url)
    SELECT gen_random_uuid(), n || '@example.com', repeat('x', 1000) FROM generate_series(1, 4000) n
"""


def test_scraper_that_leaves_is_not_logged(tmp_path, database_url):
    metrics = {"TAMATAR_METRICS_ENABLED": "true", "TAMATAR_METRICS_LISTEN": "127.0.0.1:0"}
    with serving(cwd=tmp_path, TAMATAR_DATABASE_URL=database_url, **metrics) as server:
        assert server.addresses
        (telemetry,) = server.events("telemetry")
        host, _, port = telemetry["metrics_address"].rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(port))) as scraper:
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                scraper.sendall(b"GET /metr")
        server.process.terminate()
        assert server.ended() == 0
        assert all(line.startswith("{") for line in server.said.splitlines())


async def test_stream_that_is_not_read_is_counted_not_logged(tmp_path, migrated_database):
    with psycopg.connect(migrated_database) as connection:
        connection.execute(ADD_USERS)
    metrics = {"TAMATAR_METRICS_ENABLED": "true", "TAMATAR_METRICS_LISTEN": "127.0.0.1:0"}
    command = (sys.executable, "-c", IMPATIENT_SERVER, "serve")
    with serving(
        cwd=tmp_path, command=command, TAMATAR_DATABASE_URL=migrated_database, **metrics
    ) as server:
        (address,) = server.addresses
        (telemetry,) = server.events("telemetry")

        def undelivered():
            with urlopen(f"http://{telemetry['metrics_address']}/metrics") as answer:
                (line,) = [
                    line
                    for line in answer.read().decode().splitlines()
                    if line.startswith("tamatar_call_undelivered_total")
                ]
            return float(line.rpartition(" ")[2])

        async def leave_unread():
            async with grpc.aio.insecure_channel(address, options=UNREAD) as channel:
                await UserServiceStub(channel).ExportUsers(ExportUsersRequest()).read()
                await asyncio.sleep(1)  # meanwhile the server ends the stream
            return undelivered()

        await eventually(leave_unread)
        server.process.terminate()
        assert server.ended() == 0
        serious = [line for line in server.logs if line["level"] in ("error", "critical")]

    assert serious == []
