"""How many steps a call should have: about a tenth of a second, found without a jump."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from trainer.pace import Pace


def after(*calls: tuple[int, float]) -> Pace:
    """Returns the pace that learned of calls, each of so many steps and seconds."""
    pace = Pace()
    for steps, seconds in calls:
        pace.took(steps, seconds)
    return pace


def steady(seconds_a_step: float, calls: int, pace: Pace | None = None) -> Pace:
    """Returns the pace after calls as long as it asks for, of steps that all take as long."""
    pace = after((1, 60.0)) if pace is None else pace
    for _ in range(calls):
        pace.took(pace.steps, pace.steps * seconds_a_step)
    return pace


def test_a_program_starts_with_one_step():
    assert Pace().steps == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.1, 60.0])
def test_the_first_call_tells_nothing(seconds):
    """It compiles."""
    assert after((1, seconds)).steps == 1
    assert after((1, seconds), (1, 0.05)).steps == 2


@pytest.mark.parametrize(
    ("seconds_a_step", "steps"), [(1.0, 1), (0.11, 1), (0.05, 2), (0.01, 10), (1e-3, 100)]
)
def test_a_call_comes_to_take_about_a_tenth_of_a_second(seconds_a_step, steps):
    assert steady(seconds_a_step, 6).steps == pytest.approx(steps, abs=1)


def test_calls_grow_by_no_more_than_eight_times():
    pace, lengths = after((1, 3.0)), []
    for _ in range(4):
        pace.took(pace.steps, 0.0)
        lengths.append(pace.steps)
    assert lengths == [8, 64, 512, 4096]


def test_slower_steps_shorten_the_calls_at_once():
    pace = steady(1e-4, 8)
    assert pace.steps == pytest.approx(1000, abs=1)
    assert steady(0.01, 1, pace).steps == pytest.approx(10, abs=1)
    assert steady(5.0, 1, pace).steps == 1


def test_a_call_cut_short_makes_the_next_no_shorter():
    """The last group of an epoch, or one up to a checkpoint, is as fast a step as others."""
    pace = steady(1e-3, 6)
    for cut in (1, 7):
        pace.took(cut, cut * 1e-3)
        assert pace.steps == pytest.approx(100, abs=1)


def test_a_call_cut_short_that_took_long_shortens_the_next_by_no_more_than_eight_times():
    """An odd last batch is traced; if steps have become slow, the next calls tell that, too."""
    pace = steady(1e-3, 6)
    steps = pace.steps
    pace.took(1, 1.0)
    assert pace.steps == steps // 8
    assert steady(1e-3, 2, pace).steps == pytest.approx(100, abs=1)
    pace.took(1, 1.0)
    assert steady(1.0, 1, pace).steps == 1


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e6)), min_size=1, max_size=20)
)
def test_whatever_calls_took_the_next_has_steps_and_has_not_grown_too_much(calls):
    pace = Pace()
    for steps, seconds in calls:
        before = pace.steps
        pace.took(steps, seconds)
        assert isinstance(pace.steps, int)
        assert 1 <= pace.steps <= 8 * max(before, steps)


@hypothesis.given(st.floats(1e-6, 10.0), st.integers(8, 15))
def test_steps_that_all_take_as_long_settle(seconds_a_step, calls):
    steps = steady(seconds_a_step, calls).steps
    assert steps == pytest.approx(max(1, int(0.1 / seconds_a_step)), abs=1)
    assert steps == 1 or 0.04 < steps * seconds_a_step < 0.101
