"""Which callbacks watch which batches, of what kind they are, and how far a group may go."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
import tqdm.keras

from tests.helpers.models import compiled
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.callbacks import ForNetwork, ProgressBar, SampleImages
from trainer.watching import Watch, Watcher

callbacks = keras.callbacks
Callback = keras.callbacks.Callback
MODES = ("train", "test", "predict")
HOOKS = [f"on_{mode}_batch_{end}" for mode in MODES for end in ("begin", "end")]
OLD_HOOKS = {"on_batch_begin": "on_train_batch_begin", "on_batch_end": "on_train_batch_end"}


def note(*arguments: Any, **keywords: Any) -> None:
    """Does nothing; stands for a hook that does something."""


def overriding(*hooks: str) -> type[Callback]:
    return type("Overriding", (Callback,), dict.fromkeys(hooks, note))


def with_attribute(hook: str, function: Any = note) -> Callback:
    callback = Callback()
    setattr(callback, hook, function)
    return callback


def watchers(callback: Callback, mode: str = "train") -> list[Watcher]:
    return Watch([callback], mode).watchers


def watched(callback: Callback) -> set[str]:
    """Returns the batch hooks that are to be called."""
    return {
        f"on_{mode}_batch_{end}"
        for mode in MODES
        for watcher in watchers(callback, mode)
        for end, has in (("begin", watcher.begins), ("end", watcher.ends))
        if has
    }


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
    made = [overriding(*hooks)() for hooks in ([HOOKS[0]], [], HOOKS, [HOOKS[1]])]
    for given in (made, tuple(made), iter(made)):
        assert [watcher.callback for watcher in Watch(given, "train").watchers] == made[::2] + made[
            3:
        ]
    assert [watcher.callback for watcher in Watch(made, "test").watchers] == [made[2]]
    assert Watch([], "train").watchers == []


# Kinds


def kind_of(callback: Callback, mode: str = "train") -> str | None:
    """Returns what kind a callback is, `None` where it has no part in the batches."""
    kinds = [watcher.kind for watcher in watchers(callback, mode)]
    return kinds[0] if kinds else None


class SavesEpochs(callbacks.ModelCheckpoint):
    """A checkpoint that does more at the end of an epoch."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.epochs_seen = 0

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.epochs_seen += 1


class SavesBatches(callbacks.ModelCheckpoint):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)


class SavesOldBatches(callbacks.ModelCheckpoint):
    def on_batch_end(self, batch, logs=None):
        pass


class SavesElsewhere(callbacks.ModelCheckpoint):
    def _save_model(self, epoch, batch, logs):
        pass


class Learns:
    """A mixin with a hook of batches."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)


class SavesAndLearns(Learns, callbacks.ModelCheckpoint):
    pass


class OfSavesBatches(SavesBatches):
    def on_epoch_end(self, epoch, logs=None):
        pass


class LooksAtLoss(callbacks.TerminateOnNaN):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)


class ShownTwice(callbacks.ProgbarLogger):
    def _update_progbar(self, batch, logs):
        pass


class OwnTqdm(tqdm.keras.TqdmCallback):
    pass


def saving_its_own_way() -> Callback:
    checkpoint = callbacks.ModelCheckpoint("x.keras")
    checkpoint._save_model = note
    return checkpoint


def set_to_save(frequency: Any) -> Callback:
    checkpoint = callbacks.ModelCheckpoint("x.keras")
    checkpoint.save_freq = frequency
    return checkpoint


def silent_tqdm(kind: type = tqdm.keras.TqdmCallback, **settings: Any) -> Callback:
    return kind(**settings, file=io.StringIO())


KINDS: dict[str, tuple[Callable[[], Callback], str | None]] = {  # in training
    "ModelCheckpoint": (lambda: callbacks.ModelCheckpoint("x.keras"), None),
    "ModelCheckpoint, every 3rd": (
        lambda: callbacks.ModelCheckpoint("x.keras", save_freq=3),
        "log",
    ),
    "ModelCheckpoint, every one": (
        lambda: callbacks.ModelCheckpoint("x.keras", save_freq=1),
        "log",
    ),
    "ModelCheckpoint, set later": (lambda: set_to_save(4), "log"),
    "ModelCheckpoint, set to nonsense": (lambda: set_to_save("daily"), "act"),
    "ModelCheckpoint, a method set": (saving_its_own_way, "act"),
    "ModelCheckpoint, own on_epoch_end": (lambda: SavesEpochs("x.keras"), None),
    "ModelCheckpoint, own on_epoch_end, every 3rd": (
        lambda: SavesEpochs("x.keras", save_freq=3),
        "log",
    ),
    "ModelCheckpoint, own on_train_batch_end": (lambda: SavesBatches("x.keras"), "act"),
    "ModelCheckpoint, own on_train_batch_end, every 3rd": (
        lambda: SavesBatches("x.keras", save_freq=3),
        "act",
    ),
    "ModelCheckpoint, own on_batch_end": (lambda: SavesOldBatches("x.keras"), "act"),
    "ModelCheckpoint, own private method": (lambda: SavesElsewhere("x.keras", save_freq=3), "act"),
    "ModelCheckpoint with a mixin": (lambda: SavesAndLearns("x.keras"), "act"),
    "ModelCheckpoint, inherited hook": (lambda: OfSavesBatches("x.keras"), "act"),
    "BackupAndRestore": (lambda: callbacks.BackupAndRestore("x"), None),
    "BackupAndRestore, every 3rd": (lambda: callbacks.BackupAndRestore("x", save_freq=3), "log"),
    "TerminateOnNaN": (callbacks.TerminateOnNaN, "show"),
    "TerminateOnNaN, own on_train_batch_end": (LooksAtLoss, "act"),
    "ProgbarLogger": (callbacks.ProgbarLogger, "show"),
    "ProgbarLogger, own private method": (ShownTwice, "act"),
    "TensorBoard": (lambda: callbacks.TensorBoard("x"), "show"),
    "TensorBoard, histograms": (lambda: callbacks.TensorBoard("x", histogram_freq=1), "show"),
    "TensorBoard, steps per second": (
        lambda: callbacks.TensorBoard("x", write_steps_per_second=True),
        "act",
    ),
    "TensorBoard, profile": (lambda: callbacks.TensorBoard("x", profile_batch=2), "act"),
    "TensorBoard, profile of a range": (
        lambda: callbacks.TensorBoard("x", profile_batch=(2, 4)),
        "act",
    ),
    "TensorBoard, every batch": (lambda: callbacks.TensorBoard("x", update_freq="batch"), "act"),
    "TensorBoard, every 5th": (lambda: callbacks.TensorBoard("x", update_freq=5), "act"),
    "EarlyStopping": (callbacks.EarlyStopping, None),
    "ReduceLROnPlateau": (callbacks.ReduceLROnPlateau, None),
    "History": (callbacks.History, None),
    "CSVLogger": (lambda: callbacks.CSVLogger("x.csv"), None),
    "LearningRateScheduler": (lambda: callbacks.LearningRateScheduler(float), None),
    "SwapEMAWeights": (callbacks.SwapEMAWeights, None),
    "SwapEMAWeights, on batches": (lambda: callbacks.SwapEMAWeights(swap_on_epoch=False), None),
    "LambdaCallback of epochs": (lambda: callbacks.LambdaCallback(on_epoch_end=note), None),
    "LambdaCallback of batches": (lambda: callbacks.LambdaCallback(on_train_batch_end=note), "act"),
    "LambdaCallback of batches, old name": (
        lambda: callbacks.LambdaCallback(on_batch_begin=note),
        "act",
    ),
    "tqdm": (silent_tqdm, "log"),
    "tqdm, own class": (lambda: silent_tqdm(OwnTqdm), "act"),
    "tqdm of epochs": (lambda: silent_tqdm(verbose=0), None),
    "SampleImages": (lambda: SampleImages("x"), "act"),
    "SampleImages, every 3rd": (lambda: SampleImages("x", every=3), "act"),
    "ProgressBar": (ProgressBar, "show"),
    "one's own": (overriding("on_train_batch_end"), "act"),
    "one's own of evaluation": (overriding("on_test_batch_end"), None),
}
# Those that have to see each batch of training before the next one starts.
HOLDING = {
    name
    for name, (_, kind) in KINDS.items()
    if kind == "act" and not name.startswith("SampleImages")
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_what_kind_a_callback_is_follows_from_its_settings(name):
    make, kind = KINDS[name]
    assert kind_of(make()) == kind


@pytest.mark.parametrize("name", KINDS)
def test_a_bound_callback_is_of_its_own_kind(name):
    make, kind = KINDS[name]
    assert kind_of(ForNetwork("generator", make())) == kind
    assert kind_of(ForNetwork("generator", ForNetwork("generator", make()))) == kind
    (bound,) = watchers(ForNetwork("generator", make())) or [None]
    assert (bound is not None and bound.holds_groups) == (name in HOLDING)


@pytest.mark.parametrize("name", KINDS)
def test_groups_are_held_by_those_that_may_act_on_each_batch(name):
    callback = KINDS[name][0]()
    watch = Watch([callbacks.History(), callback], "train")
    assert watch.holder is (callback if name in HOLDING else None)
    assert (watch.reach(0, 7) == 1) == (name in HOLDING or "every one" in name)


def test_the_first_that_holds_groups_is_told():
    act = overriding("on_train_batch_end")
    first, second = act(), act()
    assert Watch([ProgressBar(), first, second], "train").holder is first
    bound = ForNetwork("generator", first)
    assert Watch([bound, second], "train").holder is bound


def saying(kind: Any, *hooks: str, **members: Any) -> Callback:
    """Returns a callback with hooks that says its kind by its attribute."""
    made = dict.fromkeys(hooks or HOOKS, note)
    return type("Says", (Callback,), {"batch_hooks": kind, **made, **members})()


@pytest.mark.parametrize("kind", ["act", "log", "show"])
def test_a_callback_says_its_kind_by_an_attribute(kind):
    for mode in ("train", "test"):
        assert kind_of(saying(kind), mode) == kind
        assert kind_of(ForNetwork("generator", saying(kind)), mode) == kind
    on_the_object = overriding(*HOOKS)()
    on_the_object.batch_hooks = kind
    assert kind_of(on_the_object) == kind
    assert kind_of(type("Inherits", (type(saying(kind)),), {})()) == kind


@pytest.mark.parametrize("kind", ["act", "log", "show"])
def test_the_attribute_decides_for_a_subclass_of_one_of_keras_too(kind):
    class Says(callbacks.ModelCheckpoint):
        batch_hooks = kind

        def on_train_batch_end(self, batch, logs=None):
            pass

    assert kind_of(Says("x.keras", save_freq=3)) == kind


@pytest.mark.parametrize("wrong", ["epoch", "logs", "ACT", "", None, 3, True])
def test_a_kind_that_there_is_not_is_named(wrong):
    sentence = f"Says.batch_hooks is {wrong!r}: expected one of 'act', 'log', 'show'."
    for callback in (saying(wrong), ForNetwork("generator", saying(wrong))):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            Watch([callback], "train")


def test_a_wrong_kind_is_told_by_fit_before_any_weight_changes():
    model = compiled(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    before = model.get_weights()
    with pytest.raises(ValueError, match="Says.batch_hooks is 'logs'"):
        CustomTrainer(model).fit(np.ones((6, 2)), np.ones(6), callbacks=[saying("logs")], verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_a_callback_without_batch_hooks_has_no_kind():
    assert kind_of(saying("act", "on_epoch_end")) is None
    assert kind_of(saying("nonsense", "on_epoch_end")) is None


def test_a_reader_of_logs_sees_each_batch_of_a_prediction_as_it_comes():
    """Outputs of a group are not kept apart."""
    assert kind_of(saying("log"), "predict") == "act"
    assert kind_of(saying("show"), "predict") == "show"
    assert Watch([saying("log")], "predict").reach(0, 5) == 1
    assert not Watch([saying("log")], "predict").reads_each


def test_each_step_is_told_to_those_that_only_read():
    assert Watch([ProgressBar(), saying("log")], "train").reads_each
    assert Watch([saying("log", "on_train_batch_begin")], "train").reads_each
    for others in (
        [],
        [saying("show"), saying("act")],
        [saying("log", "on_test_batch_end")],
    ):
        assert not Watch(others, "train").reads_each


# How far a group may go


def wanting(wanted: Iterable[int], *hooks: str, kind: str | None = None) -> Callback:
    """Returns an acting callback that is about the batches in `wanted`."""
    members = {"wants_batch": lambda self, step: step in wanted}
    if kind is not None:
        members["batch_hooks"] = kind
    return type("Wants", (Callback,), {**dict.fromkeys(hooks, note), **members})()


STEPS = st.integers(0, 30)
ANY = hypothesis.settings(max_examples=100)


@ANY
@hypothesis.given(st.lists(st.sets(STEPS), max_size=3), STEPS, st.integers(1, 40))
def test_a_group_goes_up_to_the_next_batch_that_is_wanted(wanted, step, most):
    made = [wanting(of_one, "on_train_batch_end") for of_one in wanted]
    reach = Watch([*made, saying("log"), saying("show"), ProgressBar()], "train").reach(step, most)
    assert 1 <= reach <= most
    group = range(step, step + reach)
    all_wanted = set().union(*wanted)
    assert not all_wanted & set(group[:-1])
    assert group[-1] in all_wanted or reach == most


@ANY
@hypothesis.given(st.sets(STEPS), st.integers(1, 9))
def test_each_batch_that_is_wanted_ends_a_group(wanted, most):
    watch = Watch([wanting(wanted, "on_train_batch_end")], "train")
    step, ends = 0, set()
    while step <= 30:
        step += watch.reach(step, most)
        ends.add(step - 1)
    assert wanted <= ends


@ANY
@hypothesis.given(st.sets(STEPS), STEPS, st.integers(1, 40))
def test_one_that_must_see_each_batch_holds_all_groups(wanted, step, most):
    for holding in (
        wanting(wanted, *HOOKS),  # a hook before a batch is not asked for
        wanting(wanted, "on_train_batch_begin"),
        saying("act"),
    ):
        assert Watch([saying("log"), holding], "train").reach(step, most) == 1


def test_what_readers_and_shows_want_holds_no_group():
    for kind in ("log", "show"):
        watch = Watch([wanting({2}, *HOOKS, kind=kind)], "train")
        assert watch.reach(0, 10) == 10


def test_what_is_wanted():
    (asks,) = watchers(wanting({2}, "on_train_batch_end"))
    assert [asks.wants(step) for step in range(4)] == [False, False, True, False]
    (always,) = watchers(overriding("on_train_batch_end")())
    assert always.wants(5)
    (begins,) = watchers(wanting({2}, "on_train_batch_begin"))
    assert not begins.wants(2)
    (bound,) = watchers(ForNetwork("generator", wanting({2}, "on_train_batch_end")))
    assert [bound.wants(1), bound.wants(2)] == [False, True]


def test_nobody_lets_a_group_be_as_long_as_it_may():
    assert Watch([], "train").reach(3, 1000) == 1000
    assert Watch([callbacks.History(), ProgressBar()], "train").reach(3, 1000) == 1000


def saved() -> int:
    """Returns how many files and folders of checkpoints there are, each with a name of its own."""
    return len([*Path().glob("*.weights.h5")])


@pytest.mark.parametrize("most", [1, 2, 4, 100])
@pytest.mark.parametrize("frequency", [1, 2, 3, 5, 11])
def test_a_group_never_passes_a_batch_after_which_a_checkpoint_is_saved(frequency, most):
    """Keras counts its batches over all epochs."""
    checkpoint = callbacks.ModelCheckpoint(
        "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=frequency
    )
    checkpoint.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    watch, steps, groups = Watch([checkpoint], "train"), 7, 0
    for epoch in range(3):
        checkpoint.on_epoch_begin(epoch)
        step = 0
        while step < steps:
            k = watch.reach(step, min(most, steps - step))
            assert 1 <= k <= most
            for batch in range(step, step + k):
                before = saved()
                checkpoint.on_train_batch_end(batch, {})
                assert saved() == before or batch == step + k - 1
            step += k
            groups += 1
    assert saved() == 3 * steps // frequency
    assert groups <= 3 * -(-steps // most) + saved()


def test_the_next_checkpoint_of_several_ends_a_group():
    made = [callbacks.ModelCheckpoint("x.keras", save_freq=n) for n in (5, 3, 8)]
    made.append(ForNetwork("generator", callbacks.ModelCheckpoint("x.keras", save_freq=4)))
    assert Watch(made, "train").reach(0, 10) == 3
    assert Watch(made[::2], "train").reach(0, 10) == 5
    assert Watch(made[3:], "train").reach(0, 10) == 4
    assert Watch(made, "train").reach(0, 2) == 2
    made.append(callbacks.BackupAndRestore("backup", save_freq=2))
    assert Watch(made, "train").reach(0, 10) == 2


# Where the graph ends a group itself


def test_a_loss_that_is_no_number_ends_a_group_where_somebody_terminates_on_it():
    assert Watch([ProgressBar(), callbacks.History()], "train").until is None
    until = Watch([ProgressBar(), callbacks.TerminateOnNaN()], "train").until
    bound = ForNetwork("generator", callbacks.TerminateOnNaN())
    assert Watch([bound], "train").until is until
    told = {
        1.0: False,
        -6e4: False,
        float("nan"): True,
        float("inf"): True,
        float("-inf"): True,
    }
    for loss, expected in told.items():
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            assert bool(until({"loss": tf.constant(loss, dtype), "mae": tf.zeros(())})) == expected
    assert bool(until({"loss": tf.constant([0.0, float("nan")])}))
    assert not bool(until({"loss": tf.constant(3)}))
    assert not bool(until({"mae": tf.constant(float("nan"))}))


def test_evaluation_and_prediction_end_on_no_loss():
    for mode in ("test", "predict"):
        assert Watch([callbacks.TerminateOnNaN()], mode).until is None


def test_one_with_a_hook_of_its_own_terminates_itself():
    assert Watch([LooksAtLoss()], "train").until is None


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
