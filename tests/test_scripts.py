"""Promise 1 for whole scripts: each ends with the same bits under `model.fit` and the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.models import seeded, weights_of
from tests.helpers.scripts import SCRIPTS
from tests.helpers.tables import each
from trainer import CustomTrainer

DEFAULT = [
    *("own metrics property", "own compute loss", "two optimizers", "loss inside of the model"),
    *("gradients accumulated by hand", "search for a learning rate"),
]


def results(script: Callable, trained_by: Callable[[keras.Model], Any]) -> list[Any]:
    """Returns what a script returns, weights and histories where it returns models."""
    return [plain(result) for result in seeded(lambda: script(trained_by))]


def plain(result: Any) -> Any:
    if isinstance(result, keras.Model):
        values = weights_of(result) if result.compiled else result.get_weights()
        history = getattr(result, "history", None)
        return {"weights": values, "history": history and history.history}
    return keras.tree.map_structure(
        lambda leaf: leaf.numpy() if hasattr(leaf, "numpy") else leaf, result
    )


@pytest.mark.parametrize("script", **each(SCRIPTS, default=DEFAULT))
def test_scripts(script, tmp_path, monkeypatch):
    found = []
    for name, trained_by in {"theirs": lambda model: model, "ours": CustomTrainer}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.append(results(script, trained_by))
    theirs, ours = found
    assert_same(ours, theirs)
