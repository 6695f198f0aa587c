"""Trainings drawn at random resume to the same bits; `tests.helpers.mixtures` draws more."""

from __future__ import annotations

import warnings

import pytest

from tests.helpers.mixtures import Mixture
from trainer.snapshots import writer

MIXTURES = [
    pytest.param(number, marks=[] if number < 3 else pytest.mark.exhaustive) for number in range(20)
]


@pytest.mark.parametrize("number", MIXTURES)
def test_a_mixture_resumes_to_the_same_bits(number, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_SHARE", 0)  # each snapshot is written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shuffles without a seed
        Mixture(f"test {number}").check(tmp_path)
