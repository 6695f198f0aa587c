"""Which callbacks do something in which batch hook."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest

from tests.models import compiled, each
from trainer import CustomTrainer
from trainer.watching import group_length, watchers

Callback = keras.callbacks.Callback
HOOKS = [
    f"on_{mode}_batch_{end}" for mode in ("train", "test", "predict") for end in ("begin", "end")
]
OLD_HOOKS = {"on_batch_begin": "on_train_batch_begin", "on_batch_end": "on_train_batch_end"}


def note(*arguments: Any, **keywords: Any) -> None:
    """Does nothing; stands for a hook that does something."""


def overriding(*hooks: str) -> type[Callback]:
    return type("Overriding", (Callback,), dict.fromkeys(hooks, note))


def with_attribute(hook: str, function: Any = note) -> Callback:
    callback = Callback()
    setattr(callback, hook, function)
    return callback


def watched(callback: Any) -> set[str]:
    return {hook for hook in HOOKS if watchers([callback], hook)}


def test_a_callback_watches_what_it_overrides():
    for hook in HOOKS:
        assert watched(overriding(hook)()) == {hook}
    assert watched(overriding(*HOOKS)()) == set(HOOKS)


@pytest.mark.parametrize(("old", "hook"), OLD_HOOKS.items())
def test_an_old_name_is_the_hook_of_training(old, hook):
    assert watched(overriding(old)()) == {hook}
    assert watched(with_attribute(old)) == {hook}
    assert watched(type("Inherits", (overriding(old),), {})()) == {hook}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_may_be_inherited(hook):
    class Inherits(overriding(hook)):
        def on_epoch_end(self, epoch, logs=None):
            pass

    class Mixin:
        pass

    setattr(Mixin, hook, note)
    assert watched(Inherits()) == {hook}
    assert watched(type("Mixed", (Mixin, Callback), {})()) == {hook}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_may_be_an_attribute(hook):
    for function in (note, functools.partial(note, 1), lambda batch, logs: None, print):
        assert watched(with_attribute(hook, function)) == {hook}
    bound = with_attribute(hook, overriding("on_epoch_end")().on_epoch_end)
    assert watched(bound) == {hook}


def test_a_hook_may_be_a_static_method():
    static = type("Static", (Callback,), {"on_train_batch_end": staticmethod(note)})
    assert watched(static()) == {"on_train_batch_end"}


IDLE = {
    "Callback": Callback,
    "hooks of epochs": overriding(
        "on_epoch_begin", "on_epoch_end", "on_train_begin", "on_test_end"
    ),
    "History": keras.callbacks.History,
    "EarlyStopping": keras.callbacks.EarlyStopping,
    "ReduceLROnPlateau": keras.callbacks.ReduceLROnPlateau,
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(float),
    "CSVLogger": lambda: keras.callbacks.CSVLogger("log.csv"),
    "LambdaCallback of epochs": lambda: keras.callbacks.LambdaCallback(on_epoch_end=note),
}


@pytest.mark.parametrize("make", **each(IDLE))
def test_callbacks_that_watch_no_batch(make):
    assert watched(make()) == set()


BUSY = {
    "LambdaCallback, begin": (
        lambda: keras.callbacks.LambdaCallback(on_train_batch_begin=note),
        {"on_train_batch_begin"},
    ),
    "LambdaCallback, end": (
        lambda: keras.callbacks.LambdaCallback(on_train_batch_end=note),
        {"on_train_batch_end"},
    ),
    "LambdaCallback, old name": (
        lambda: keras.callbacks.LambdaCallback(on_batch_end=note),
        {"on_train_batch_end"},
    ),
    "TerminateOnNaN": (keras.callbacks.TerminateOnNaN, {"on_train_batch_end"}),
    "a hook that calls the base": (
        type(
            "CallsBase",
            (Callback,),
            {
                "on_test_batch_end": lambda self, batch, logs=None: Callback.on_test_batch_end(
                    self, batch, logs
                )
            },
        ),
        {"on_test_batch_end"},
    ),
}


@pytest.mark.parametrize(("make", "hooks"), **each(BUSY))
def test_callbacks_that_watch_batches(make, hooks):
    assert watched(make()) == hooks


def test_order_stays():
    callbacks = [overriding(*hooks)() for hooks in ([HOOKS[0]], [], HOOKS, [HOOKS[0]])]
    assert watchers(callbacks, HOOKS[0]) == [callbacks[0], callbacks[2], callbacks[3]]
    assert watchers(callbacks, HOOKS[1]) == [callbacks[2]]
    assert watchers(iter(callbacks), HOOKS[1]) == [callbacks[2]]
    assert watchers([], HOOKS[0]) == []


@pytest.mark.parametrize("steps", [1, 7])
def test_a_group_is_as_long_as_steps_per_execution(steps):
    model = compiled(keras.Sequential([keras.layers.Dense(1)]), steps_per_execution=steps)
    assert group_length(model) == steps


# In a fit: what Keras calls is called, whatever way it was overridden


class SetsAHook(Callback):
    """Sets a hook when training begins, another one when an epoch does."""

    def __init__(self, seen):
        super().__init__()
        self._note = seen.append

    def on_train_begin(self, logs=None):
        self.on_train_batch_end = lambda batch, logs: self._note(("set at first", batch))

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.on_train_batch_begin = lambda batch, logs: self._note(("set later", batch))
            self.on_test_batch_begin = lambda batch, logs: self._note(("set for tests", batch))


class OldNames(Callback):
    def __init__(self, seen):
        super().__init__()
        self._note = seen.append

    def on_batch_begin(self, batch, logs=None):
        self._note(("old begin", batch))

    def on_batch_end(self, batch, logs=None):
        self._note(("old end", batch))


class BothNames(OldNames):
    def on_train_batch_end(self, batch, logs=None):
        self._note(("new end", batch))


WAYS = {
    "set during training": SetsAHook,
    "old names": OldNames,
    "both names": BothNames,
    "lambdas": lambda seen: keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(("lambda", batch, sorted(logs)))
    ),
}


@pytest.mark.parametrize("make", **each(WAYS))
def test_hooks_are_called_as_by_keras(make):
    def seen_by(run_of: Any) -> list:
        seen = []
        stack = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model = compiled(stack, metrics=None)
        data = (np.ones((6, 2)), np.ones(6))
        run_of(model).fit(
            *data, 2, epochs=3, callbacks=[make(seen)], validation_data=data, verbose=0
        )
        return seen

    ours = seen_by(CustomTrainer)
    assert ours == seen_by(lambda model: model)
    assert len(ours) >= 9
