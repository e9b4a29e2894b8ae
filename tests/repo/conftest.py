"""Fixtures: the wheel of this source tree."""

from tests.support.wheel_environment import wheel, wheel_environment

__all__ = ["wheel", "wheel_environment"]
