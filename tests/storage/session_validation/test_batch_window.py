"""When groups of calls begin, by how many came before."""

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
    """Let all of some callers wait together twice, so that the second group has not grown."""
    for _ in range(2):
        window.record_batch(callers, NOW)
        assert window.seconds_to_wait(1, NOW)
        window.record_wait(callers)


def test_who_is_alone_never_waits(window):
    for _ in range(3):
        assert window.seconds_to_wait(1, NOW) == 0
        window.record_batch(1, NOW)


def test_who_comes_after_a_group_waits_longer_the_larger_it_was(window):
    waits = []
    for group in (2, 4, 5, 16, 500):
        window.record_batch(group, NOW)
        waits.append(window.seconds_to_wait(1, NOW))

    assert waits == [TICK, TICK, 2 * TICK, MAX_WAIT, MAX_WAIT]


def test_after_a_while_the_group_before_is_forgotten(window):
    window.record_batch(8, NOW)

    assert window.seconds_to_wait(1, NOW + IDLE_RESET * 0.9)
    assert window.seconds_to_wait(1, NOW + IDLE_RESET * 1.1) == 0


def test_enough_never_wait(window):
    window.record_batch(100, NOW)

    assert window.seconds_to_wait(FULL_BATCH - 1, NOW)
    assert window.seconds_to_wait(FULL_BATCH, NOW) == 0


def test_once_a_group_has_waited_in_vain_the_next_ones_wait_for_as_many(window):
    grown_to(window, 8)

    window.record_batch(8, NOW)
    assert window.full_size == 8
    assert window.seconds_to_wait(7, NOW)
    assert window.seconds_to_wait(8, NOW) == 0


def test_a_group_that_has_grown_is_not_all_there_are(window):
    window.record_batch(8, NOW)
    window.record_wait(9)

    assert window.full_size == FULL_BATCH


def test_now_and_then_a_group_waits_though_it_is_as_many(window):
    grown_to(window, 8)
    begun = 0
    while not window.seconds_to_wait(8, NOW):
        begun += 1
        window.record_batch(8, NOW)

    assert begun == TRUSTED_BATCHES
    assert window.full_size == FULL_BATCH


def test_who_came_while_a_statement_ran_is_waited_for_too(window):
    grown_to(window, 8)
    window.record_batch(8, NOW)
    window.record_arrivals(3)

    assert window.full_size == 11
    window.record_arrivals(FULL_BATCH)
    assert window.full_size == FULL_BATCH


def test_who_came_while_somebody_alone_was_looked_up_is_not_alone(window):
    window.record_batch(1, NOW)
    window.record_arrivals(1)

    assert window.seconds_to_wait(1, NOW) == TICK


def test_fewer_are_waited_for_once_and_then_no_more(window):
    grown_to(window, 16)
    window.record_batch(16, NOW)
    assert window.seconds_to_wait(4, NOW)
    window.record_wait(4)

    assert window.full_size == 4
    window.record_batch(4, NOW)
    assert window.seconds_to_wait(4, NOW) == 0
