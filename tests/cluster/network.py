"""The machines of the rig: network namespaces on one bridge, with links that can fail."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

BRIDGE = "switch"
SERVICES = "10.77.0.1"
"""The address of the machine of the services, which is the namespace of the rig itself."""

ADDRESSES = {"pg1": "10.77.0.11", "pg2": "10.77.0.12", "pg3": "10.77.0.13", "etcd1": "10.77.0.21"}
"""The other machines."""

HOSTS = {**ADDRESSES, "etcd2": ADDRESSES["etcd1"], "etcd3": ADDRESSES["etcd1"]}
"""All names: the rig has one etcd, which answers to the names of three."""

_NOBODY = "02:00:00:00:00:99"
"""A hardware address that no machine has."""


def build() -> None:
    """Make the bridge and the machines, and connect them."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{SERVICES}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for name, address in ADDRESSES.items():
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")


def inside(machine: str, *command: str | Path) -> Sequence[str | Path]:
    """Return a command that runs on a machine."""
    return ("ip", "netns", "exec", machine, *command)


def set_link(machine: str, *, up: bool) -> None:
    """Pull or plug the cable of a machine."""
    _ip("link", "set", machine, "up" if up else "down")


def cut(machine: str, other: str) -> None:
    """Lose everything that a machine sends to another one, without a word."""
    route = (ADDRESSES[other], "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")
    _ip("-n", machine, "neigh", "replace", *route)


def mend(machine: str, other: str) -> None:
    """Undo `cut`."""
    _ip("-n", machine, "neigh", "del", ADDRESSES[other], "dev", "eth0")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
