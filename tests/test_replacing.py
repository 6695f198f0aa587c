"""Methods are replaced for a while, several times at once, and are then as before."""

from __future__ import annotations

import pytest

from trainer.replacing import replaced


class Counter:
    def add(self, number):
        return number


def times_ten(counter, add, number):
    return 10 * add(number)


def negative(counter, add, number):
    return -add(number)


def test_only_the_given_object_calls_the_other_and_only_meanwhile():
    one, other = Counter(), Counter()
    with replaced([one], "add", times_ten):
        assert (one.add(2), other.add(2)) == (20, 2)
    assert one.add(2) == 2
    assert vars(one) == {}


def test_an_error_ends_it():
    one = Counter()
    with pytest.raises(KeyError), replaced([one], "add", times_ten):
        raise KeyError
    assert vars(one) == {}


def test_inside_another_and_over_what_the_object_had_itself():
    one = Counter()
    one.add = lambda number: number + 1
    with replaced([one], "add", times_ten):
        with replaced([one], "add", negative):
            assert one.add(2) == -30
        assert one.add(2) == 30
    assert one.add(2) == 3


@pytest.mark.parametrize("ends", [(0, 1), (1, 0)])
def test_two_may_end_in_any_order(ends):
    one = Counter()
    both = [replaced([one], "add", times_ten) for _ in range(2)]
    for each in both:
        each.__enter__()
    both[ends[0]].__exit__(None, None, None)
    assert one.add(2) == 20
    both[ends[1]].__exit__(None, None, None)
    assert vars(one) == {}
