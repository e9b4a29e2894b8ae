"""Which methods need a session, and which need a step-up."""

import enum
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tamatar_auth.client.step_up import StepUp, require_step_ups

OPEN_METHODS = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""The methods that need no session by default: health and reflection."""

_NAME = re.compile(r"/?[A-Za-z_][\w.]*(/[A-Za-z_]\w*)?", re.ASCII)


class SessionRequirement(enum.Enum):
    """Whether a call needs a session."""

    NONE = enum.auto()
    OPTIONAL = enum.auto()
    REQUIRED = enum.auto()


class MethodRule(NamedTuple):
    """What a call needs."""

    requirement: SessionRequirement
    step_up: StepUp | None = None


class MethodRules:
    """The rule of each method. A method that is not named needs a session.

    `shop.v1.Shop/List` names a method, `shop.v1.Shop` all of a service. The name of a method
    decides before that of its service which step-up is needed.
    """

    def __init__(
        self,
        open_methods: Iterable[str],
        optional_methods: Iterable[str],
        step_up: Mapping[str, StepUp],
    ) -> None:
        """Raise `ValueError` for a step-up that no call would need.

        Raise `TypeError` if `step_up` has other values than step-ups.
        """
        require_step_ups(step_up)
        self._open, self._optional = (
            frozenset(name.lstrip("/") for name in as_tuple(methods))
            for methods in (open_methods, optional_methods)
        )
        for name in step_up:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no method, such as shop.v1.Shop/Pay, and no service")
        self._step_up = {name.lstrip("/"): needed for name, needed in step_up.items()}
        for name in self._step_up:
            if not {*_names(name)}.isdisjoint(self._open | self._optional):
                raise no_session_for_step_up(name)

    def rule(self, path: str) -> MethodRule:
        """Return the rule of a method such as `/shop.v1.Shop/List`."""
        names = _names(path.lstrip("/"))
        if not self._open.isdisjoint(names):
            return MethodRule(SessionRequirement.NONE)
        if not self._optional.isdisjoint(names):
            return MethodRule(SessionRequirement.OPTIONAL)
        found = (self._step_up[name] for name in names if name in self._step_up)
        return MethodRule(SessionRequirement.REQUIRED, next(found, None))


def _names(name: str) -> tuple[str, str]:
    """Return the name of a method and that of its service."""
    return name, name.partition("/")[0]


def no_session_for_step_up(name: str) -> ValueError:
    """Return the error of a rule that asks for a step-up where no session is needed."""
    return ValueError(f"{name} needs a step-up, so it cannot be open or optional")


def as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names. Raises `TypeError` for a single text, which is iterable by letter."""
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, such as [{names!r}]")
    return tuple(names)
