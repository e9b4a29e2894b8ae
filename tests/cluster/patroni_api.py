"""The HTTP interfaces of Patroni and etcd."""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.processes import Node

PATRONI, ETCD = 8008, 2379


def request(
    host: str, port: int, path: str, *, method: str = "GET", timeout: float = 2, **body: Any
) -> Any:
    """Return the answer of a server, or None if it refuses or does not answer."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if answer.status >= http.client.BAD_REQUEST:
        return None
    return json.loads(text) if text.startswith("{") else text


def is_leader(node: Node) -> bool:
    """Return whether Patroni runs on a machine, holds the leader's lock, and has promoted it.

    Patroni answers 200 as soon as it holds the lock: the promotion comes later.
    """
    answer = request(node.name, PATRONI, "/primary")
    return answer is not None and answer["role"] == "primary"


def members(nodes: Sequence[Node]) -> Sequence[Mapping[str, Any]]:
    """Return the members of the cluster, as the first machine that answers sees them."""
    for node in nodes:
        if found := request(node.name, PATRONI, "/cluster"):
            listed: Sequence[Mapping[str, Any]] = found["members"]
            return listed
    return []


def is_whole(nodes: Sequence[Node]) -> bool:
    """Return whether a leader runs with a synchronous standby, and all stream from it."""
    listed = members(nodes)
    leaders = [one for one in listed if one["role"] == "leader" and one["state"] == "running"]
    standbys = [one for one in listed if one["state"] == "streaming"]
    return (
        len(leaders) == 1
        and len(standbys) == len(nodes) - 1
        and any(is_synchronous(one) for one in standbys)
        and len({one.get("timeline") for one in listed}) == 1
    )


def is_synchronous(member: Mapping[str, Any]) -> bool:
    """Return whether commits wait for a member."""
    return member["role"] in {"sync_standby", "quorum_standby"}
