"""When groups of calls begin, by how many came before."""

import pytest

from tamatar_auth.storage.session_validation.batch_window import (
    COMPANY,
    ENOUGH,
    LONGEST_WAIT,
    TICK,
    TRUSTED,
    Pace,
)

NOW = 100.0


@pytest.fixture
def pace():
    return Pace()


def grown_to(pace, callers):
    """Let all of some callers wait together twice, so that the second group has not grown."""
    for _ in range(2):
        pace.took(callers, NOW)
        assert pace.wait(1, NOW)
        pace.waited(callers)


def test_who_is_alone_never_waits(pace):
    for _ in range(3):
        assert pace.wait(1, NOW) == 0
        pace.took(1, NOW)


def test_who_comes_after_a_group_waits_longer_the_larger_it_was(pace):
    waits = []
    for group in (2, 4, 5, 16, 500):
        pace.took(group, NOW)
        waits.append(pace.wait(1, NOW))

    assert waits == [TICK, TICK, 2 * TICK, LONGEST_WAIT, LONGEST_WAIT]


def test_after_a_while_the_group_before_is_forgotten(pace):
    pace.took(8, NOW)

    assert pace.wait(1, NOW + COMPANY * 0.9)
    assert pace.wait(1, NOW + COMPANY * 1.1) == 0


def test_enough_never_wait(pace):
    pace.took(100, NOW)

    assert pace.wait(ENOUGH - 1, NOW)
    assert pace.wait(ENOUGH, NOW) == 0


def test_once_a_group_has_waited_in_vain_the_next_ones_wait_for_as_many(pace):
    grown_to(pace, 8)

    pace.took(8, NOW)
    assert pace.enough == 8
    assert pace.wait(7, NOW)
    assert pace.wait(8, NOW) == 0


def test_a_group_that_has_grown_is_not_all_there_are(pace):
    pace.took(8, NOW)
    pace.waited(9)

    assert pace.enough == ENOUGH


def test_now_and_then_a_group_waits_though_it_is_as_many(pace):
    grown_to(pace, 8)
    begun = 0
    while not pace.wait(8, NOW):
        begun += 1
        pace.took(8, NOW)

    assert begun == TRUSTED
    assert pace.enough == ENOUGH


def test_who_came_while_a_statement_ran_is_waited_for_too(pace):
    grown_to(pace, 8)
    pace.took(8, NOW)
    pace.left(3)

    assert pace.enough == 11
    pace.left(ENOUGH)
    assert pace.enough == ENOUGH


def test_who_came_while_somebody_alone_was_looked_up_is_not_alone(pace):
    pace.took(1, NOW)
    pace.left(1)

    assert pace.wait(1, NOW) == TICK


def test_fewer_are_waited_for_once_and_then_no_more(pace):
    grown_to(pace, 16)
    pace.took(16, NOW)
    assert pace.wait(4, NOW)
    pace.waited(4)

    assert pace.enough == 4
    pace.took(4, NOW)
    assert pace.wait(4, NOW) == 0
