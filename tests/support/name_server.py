"""A name server that knows one name, for clients that call all addresses of a name."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset


@contextlib.contextmanager
def name_server(name: str, addresses: Sequence[str]) -> Iterator[str]:
    """Answer queries for the IPv4 addresses of a name while the block runs; yield host:port.

    A change of `addresses` changes the next answer.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(_answer(data, name, addresses).to_wire(), self.client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _answer(data: bytes, name: str, addresses: Sequence[str]) -> Any:
    query = dns.message.from_wire(data)
    (question,) = query.question
    answer = dns.message.make_response(query)
    if question.name.to_text() == f"{name}." and question.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", *addresses))
    return answer
