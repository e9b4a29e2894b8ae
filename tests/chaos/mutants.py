"""Tools that change the service of this process."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_going_on: set["asyncio.Task[Any]"] = set()


def swap(owner: object, name: str, other: object) -> None:
    """Replace a part of the service."""
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, other)


def go_on(work: Coroutine[Any, Any, Any]) -> None:
    """Continue work in the background after the call has ended."""
    task = asyncio.get_running_loop().create_task(work)
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
