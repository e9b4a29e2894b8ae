"""How long a batch of calls waits, by the size of the batches before."""

import pytest

from tamatar_auth.storage.session_validation.batch_window import (
    FULL_BATCH,
    IDLE_RESET,
    MAX_WAIT,
    TICK,
    TRUSTED_BATCHES,
    BatchWindow,
)

NOW = 100.0


@pytest.fixture
def window():
    return BatchWindow()


def grown_to(window, callers):
    """Record two batches of a size that waited, so that the second one has not grown."""
    for _ in range(2):
        window.record_batch(callers, NOW)
        assert window.seconds_to_wait(1, NOW)
        window.record_wait(callers)


def test_lone_call_never_waits(window):
    for _ in range(3):
        assert window.seconds_to_wait(1, NOW) == 0
        window.record_batch(1, NOW)


def test_wait_grows_with_size_of_last_batch(window):
    waits = []
    for group in (2, 4, 5, 16, 500):
        window.record_batch(group, NOW)
        waits.append(window.seconds_to_wait(1, NOW))

    assert waits == [TICK, TICK, 2 * TICK, MAX_WAIT, MAX_WAIT]


def test_wait_after_idle_reset_is_zero(window):
    window.record_batch(8, NOW)

    assert window.seconds_to_wait(1, NOW + IDLE_RESET * 0.9)
    assert window.seconds_to_wait(1, NOW + IDLE_RESET * 1.1) == 0


def test_full_batch_never_waits(window):
    window.record_batch(100, NOW)

    assert window.seconds_to_wait(FULL_BATCH - 1, NOW)
    assert window.seconds_to_wait(FULL_BATCH, NOW) == 0


def test_full_size_after_vain_wait_is_size_of_batch(window):
    grown_to(window, 8)

    window.record_batch(8, NOW)
    assert window.full_size == 8
    assert window.seconds_to_wait(7, NOW)
    assert window.seconds_to_wait(8, NOW) == 0


def test_full_size_after_batch_grew_is_maximum(window):
    window.record_batch(8, NOW)
    window.record_wait(9)

    assert window.full_size == FULL_BATCH


def test_full_size_is_tested_again_after_trusted_batches(window):
    grown_to(window, 8)
    begun = 0
    while not window.seconds_to_wait(8, NOW):
        begun += 1
        window.record_batch(8, NOW)

    assert begun == TRUSTED_BATCHES
    assert window.full_size == FULL_BATCH


def test_full_size_includes_calls_that_arrived_meanwhile(window):
    grown_to(window, 8)
    window.record_batch(8, NOW)
    window.record_arrivals(3)

    assert window.full_size == 11
    window.record_arrivals(FULL_BATCH)
    assert window.full_size == FULL_BATCH


def test_call_after_arrivals_during_lone_call_waits_a_tick(window):
    window.record_batch(1, NOW)
    window.record_arrivals(1)

    assert window.seconds_to_wait(1, NOW) == TICK


def test_full_size_shrinks_after_one_vain_wait(window):
    grown_to(window, 16)
    window.record_batch(16, NOW)
    assert window.seconds_to_wait(4, NOW)
    window.record_wait(4)

    assert window.full_size == 4
    window.record_batch(4, NOW)
    assert window.seconds_to_wait(4, NOW) == 0
