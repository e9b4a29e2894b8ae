"""Fixtures: a server with the sample users."""

import pytest

from tests.support.sample_service import sample_address

__all__ = ["sample_address"]

pytest.register_assert_rewrite("tests.interop.story")
