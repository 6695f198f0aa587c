"""Hooks are called in order, with what Keras hands to callbacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.models import compiled
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.callbacks import ProgressBar
from trainer.collecting import Ran
from trainer.hooks import Hooks, callback_list, python_logs

Callback = keras.callbacks.Callback
ENDS = ("begin", "end")
MODES = ("train", "test", "predict")
X = numbers(6, 2)


class Records(Callback):
    """Notes its hooks with their arguments; `logs` are kept as the object that came."""

    def __init__(self, name: str = "", shared: list | None = None):
        super().__init__()
        self.name = name
        self.notes: list[tuple] = [] if shared is None else shared


def _note_of(hook: str):
    def note(self: Records, *arguments: Any, **keywords: Any) -> None:
        logs = keywords.get("logs", arguments[-1] if arguments else None)
        numbers = tuple(argument for argument in arguments if isinstance(argument, int))
        self.notes.append((self.name, hook, *numbers, logs))

    return note


for _mode in MODES:
    for _end in ENDS:
        for _hook in (f"on_{_mode}_{_end}", f"on_{_mode}_batch_{_end}"):
            setattr(Records, _hook, _note_of(_hook))
for _end in ENDS:
    setattr(Records, f"on_epoch_{_end}", _note_of(f"on_epoch_{_end}"))


def model() -> keras.Model:
    return compiled(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))


def hooks_of(*callbacks: Callback, model: keras.Model | None = None) -> Hooks:
    params = {"verbose": 0, "epochs": 1, "steps": 3}
    return Hooks(callback_list(list(callbacks), model or keras.Model(), params))


def end_of_step(hooks: Hooks, mode: str, step: int, outputs: Any) -> None:
    """Tells of the end of a group of one step."""
    hooks.group_end(mode, step, step, Ran(1, outputs))


# python_logs


class Fraction:
    """Something that is a number to `float`."""

    def __float__(self):
        return 0.25


LOGS = {
    "nothing": ({}, {}),
    "none": (None, {}),
    "tensors": ({"b": tf.constant(2.0), "a": tf.constant(1)}, {"a": 1.0, "b": 2.0}),
    "numbers": ({"a": 1, "b": np.float32(0.5), "c": True}, {"a": 1.0, "b": 0.5, "c": 1.0}),
    "variable": ({"a": tf.Variable(3.0)}, {"a": 3.0}),
    "Keras variable": ({"a": keras.Variable(3.0)}, {"a": 3.0}),
    "what float takes": ({"a": Fraction(), "b": "0.5"}, {"a": 0.25, "b": 0.5}),
    "an array of one": ({"a": np.array(1.5)}, {"a": 1.5}),
    "nested": (
        {"z": {"c": tf.constant(3.0), "b": tf.constant(2.0)}, "a": tf.constant(1.0)},
        {"a": 1.0, "b": 2.0, "c": 3.0},
    ),
    "nested twice": ({"a": {"b": {"c": tf.constant(1.0)}}}, {"c": 1.0}),
    "text": ({"a": "word"}, {"a": "word"}),
    "None": ({"a": None}, {"a": None}),
    "list": ({"a": [1, 2]}, {"a": [1, 2]}),
}


@pytest.mark.parametrize(("logs", "expected"), **each(LOGS))
def test_python_logs(logs, expected):
    result = python_logs(logs)
    assert list(result) == list(expected)
    assert result == expected
    assert [type(value) for value in result.values()] == [type(v) for v in expected.values()]


def test_arrays_in_logs_become_numpy_arrays():
    result = python_logs({"vector": tf.constant([1.0, 2.0]), "matrix": np.eye(2)})
    assert list(result) == ["matrix", "vector"]
    assert_same(result["vector"], np.array([1.0, 2.0], "float32"))
    assert_same(result["matrix"], np.eye(2))


def test_float32_values_keep_their_bits():
    value = np.float32(0.1)
    assert python_logs({"a": tf.constant(value)})["a"] == float(value) != 0.1


def logs_of_keras_callback_list(logs: Any) -> dict:
    """Returns what `keras.callbacks.CallbackList` hands to a callback for `logs`."""
    records = Records()
    keras.callbacks.CallbackList([records], model=model()).on_epoch_end(0, logs)
    return records.notes[0][-1]


@pytest.mark.parametrize("case", [*LOGS, "arrays", "ragged", "sparse"])
def test_python_logs_are_what_keras_makes_of_logs(case):
    more = {
        "arrays": {"vector": tf.constant([1.0, 2.0]), "matrix": np.eye(2), "one": np.ones((1, 1))},
        "ragged": {"outputs": tf.ragged.constant([[1.0], [2.0, 3.0]])},
        "sparse": {"outputs": tf.sparse.from_dense(np.eye(2))},
    }
    logs = LOGS[case][0] if case in LOGS else more[case]
    assert_same(python_logs(logs), logs_of_keras_callback_list(logs))


class OwnLogs(keras.Model):
    """Has logs of all kinds, and outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return {"out": self.dense(x), "one": x[:1, :1]}

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        total = tf.reduce_sum(x)
        return {
            "vector": tf.reduce_sum(x, axis=0),
            "total": total,
            "count": tf.shape(x)[0],
            "parts": {"half": total / 2, "double": total * 2},
            "above": total > 0,
        }

    test_step = train_step


CALLS = {
    "fit": lambda run, **how: run.fit(X, X, **how),
    "fit with validation": lambda run, **how: run.fit(X, X, validation_data=(X, X), **how),
    "evaluate": lambda run, **how: run.evaluate(X, X, **how),
    "predict": lambda run, **how: run.predict(X, **how),
    "predict row by row": lambda run, **how: run.predict(X, **{**how, "batch_size": 1}),
}


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("call", **each(CALLS))
def test_callbacks_see_what_they_see_under_keras(call, steps_per_execution):
    def notes_of(run_of: Any) -> list:
        keras.utils.set_random_seed(0)
        own = OwnLogs()
        own.compile(jit_compile=False, steps_per_execution=steps_per_execution)
        records = Records()
        shuffle = {"shuffle": False} if call in (CALLS["fit"], CALLS["fit with validation"]) else {}
        call(run_of(own), batch_size=2, verbose=0, callbacks=[records], **shuffle)
        return records.notes

    ours, theirs = notes_of(CustomTrainer), notes_of(lambda model: model)
    assert [note[:-1] for note in ours] == [note[:-1] for note in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert_same(our[-1] or {}, their[-1] or {}, str(our[:-1]))


# Calling


def test_hooks_come_in_the_order_of_the_callbacks():
    shared: list[tuple] = []
    hooks = hooks_of(Records("first", shared), Records("second", shared))
    hooks.begin("train")
    hooks.epoch_begin(4)
    hooks.group_begin("train", 2)
    hooks.group_end("train", 2, 3, Ran(2, {"loss": tf.constant(1.0)}))
    hooks.epoch_end(4, {"loss": 2.0})
    hooks.end("train", {"loss": 2.0})
    expected = [
        ("on_train_begin", {}),
        ("on_epoch_begin", 4, {}),
        ("on_train_batch_begin", 2, {}),
        ("on_train_batch_end", 3, {"loss": 1.0}),
        ("on_epoch_end", 4, {"loss": 2.0}),
        ("on_train_end", {"loss": 2.0}),
    ]
    assert shared == [(name, *note) for note in expected for name in ("first", "second")]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_has_its_hooks(mode):
    records = Records()
    hooks = hooks_of(records)
    hooks.begin(mode)
    hooks.group_begin(mode, 0)
    outputs = [tf.ones(3)] if mode == "predict" else {"outputs": tf.ones(3)}
    hooks.group_end(mode, 0, 1, Ran(2, outputs))
    hooks.end(mode)
    assert [note[1] for note in records.notes] == [
        f"on_{mode}_begin",
        f"on_{mode}_batch_begin",
        f"on_{mode}_batch_end",
        f"on_{mode}_end",
    ]
    assert_same(records.notes[2][3], {"outputs": np.ones(3, "float32")})


def test_only_those_that_watch_are_called():
    """The base class's hooks cost nothing: they are not even called."""
    calls = []

    class Silent(Callback):
        def __getattribute__(self, name):
            if "batch" in name:
                calls.append(name)
            return super().__getattribute__(name)

    hooks = hooks_of(Silent())
    hooks.begin("train")
    hooks.epoch_begin(0)
    calls.clear()
    for step in range(3):
        hooks.group_begin("train", step)
        end_of_step(hooks, "train", step, {"loss": tf.constant(1.0)})
    assert calls == []


class Adds(Callback):
    def on_train_batch_end(self, batch, logs=None):
        logs["added"] = batch


def test_all_callbacks_get_the_same_logs():
    records, last = Records("before"), Records("after")
    hooks = hooks_of(records, Adds(), last)
    hooks.begin("train")
    for step in (0, 1):
        end_of_step(hooks, "train", step, {"loss": tf.constant(1.0)})
    (_, _, _, first), (_, _, _, second) = last.notes[1:]
    assert first == {"loss": 1.0, "added": 0}
    assert second == {"loss": 1.0, "added": 1}
    assert records.notes[1][3] is first
    assert first is not second


@pytest.mark.parametrize("run_of", [CustomTrainer, lambda model: model], ids=["ours", "Keras"])
def test_a_callback_may_add_to_the_logs(run_of):
    class AddsToEpochs(Adds):
        def on_epoch_end(self, epoch, logs=None):
            logs["epoch"] = epoch

    last = Records()
    history = run_of(model()).fit(X, X[:, :1], 3, 2, callbacks=[AddsToEpochs(), last], verbose=0)
    assert history.history["epoch"] == [0, 1]
    added = [note[3]["added"] for note in last.notes if note[1] == "on_train_batch_end"]
    assert added == [0, 1, 0, 1]


class Picky(Records):
    """Wants every third batch only."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def wants_batch(self, step):
        self.asked.append(step)
        return step % 3 == 2


def test_a_callback_gets_the_batches_that_it_wants():
    picky, other = Picky(), Records()
    hooks = hooks_of(picky, other)
    hooks.begin("train")
    for step in range(7):
        end_of_step(hooks, "train", step, {"loss": tf.constant(float(step))})
    assert picky.asked == list(range(7))
    assert picky.notes[1:] == [("", "on_train_batch_end", n, {"loss": n}) for n in (2, 5)]
    assert len(other.notes) == 1 + 7


class Reads(Records):
    batch_hooks = "log"


class Shows(Records):
    batch_hooks = "show"


def ran(steps: int, start: float = 0.0) -> Ran:
    """Returns what a group ran whose losses count from `start`."""
    losses = np.arange(start, start + steps)
    each = {"loss": losses, "more": {"acc": losses / 2}, "vector": losses[:, None] * np.ones(2)}
    last = keras.tree.map_structure(lambda values: tf.constant(values[-1]), each)
    return Ran(steps, last, each)


def logs_of(loss: float) -> dict:
    """Returns the logs of the step with that loss."""
    return {"loss": float(loss), "acc": loss / 2, "vector": np.full(2, float(loss))}


def test_a_reader_gets_each_step_of_a_group_in_order_with_its_logs():
    reads, shows = Reads(), Shows()
    hooks = hooks_of(shows, reads)
    hooks.begin("train")
    first = 0
    for steps in (3, 1, 2):
        hooks.group_begin("train", first)
        hooks.group_end("train", first, first + steps - 1, ran(steps, first))
        first += steps
    begins = [("", "on_train_batch_begin", step, {}) for step in range(6)]
    ends = [("", "on_train_batch_end", step, logs_of(step)) for step in range(6)]
    read = [note for pair in zip(begins, ends, strict=True) for note in pair]
    assert_same(reads.notes[1:], read)
    shown = [begins[0], ends[2], begins[3], ends[3], begins[4], ends[5]]
    assert_same(shows.notes[1:], shown)


def test_logs_of_each_step_are_those_that_a_step_alone_gives():
    """In types, order of keys and every bit."""
    values = [np.float32(0.1), np.float32(1e30), np.float32("nan")]
    vectors = numbers(3, 2)
    whole = {"z": np.array(values), "a": {"y": vectors, "b": np.arange(3)}}
    reads = Reads()
    hooks = hooks_of(reads)
    hooks.begin("train")
    hooks.group_end("train", 0, 2, Ran(3, step_of(whole, 2), whole))
    ends = [note[3] for note in reads.notes if note[1] == "on_train_batch_end"]
    assert_same(ends, [python_logs(step_of(whole, step)) for step in range(3)])


def step_of(whole: dict, step: int) -> dict:
    return keras.tree.map_structure(lambda values: tf.constant(values[step]), whole)


def test_each_reader_is_told_of_a_step_before_any_of_the_next():
    shared: list[tuple] = []
    hooks = hooks_of(Reads("first", shared), Reads("second", shared))
    hooks.begin("train")
    hooks.group_begin("train", 0)
    hooks.group_end("train", 0, 1, ran(2))
    told = [
        (name, hook.removeprefix("on_train_batch_"), step) for name, hook, step, _ in shared[2:]
    ]
    assert told == [
        (name, end, step)
        for step in (0, 1)
        for end in ("begin", "end")
        for name in ("first", "second")
    ]


def test_a_reader_may_want_some_steps_only():
    class Picks(Reads):
        def wants_batch(self, step):
            return step % 2 == 1

    picks = Picks()
    hooks = hooks_of(picks)
    hooks.begin("train")
    for first in (0, 4):
        hooks.group_begin("train", first)
        hooks.group_end("train", first, first + 3, ran(4, first))
    ends = [note for note in picks.notes if note[1] == "on_train_batch_end"]
    assert [(step, logs["loss"]) for _, _, step, logs in ends] == [(n, n) for n in (1, 3, 5, 7)]


def test_what_one_adds_to_the_logs_of_a_step_the_next_ones_see():
    class AddsToEach(Adds):
        batch_hooks = "log"

    reads = Reads()
    hooks = hooks_of(AddsToEach(), reads)
    hooks.begin("train")
    hooks.group_end("train", 0, 2, ran(3))
    ends = [note[3]["added"] for note in reads.notes if note[1] == "on_train_batch_end"]
    assert ends == [0, 1, 2]


class Costly:
    """A value that counts how often it is brought to Python."""

    def __init__(self):
        self.brought = 0

    def __float__(self):
        self.brought += 1
        return 1.0


def test_values_are_brought_to_python_once_and_only_where_somebody_looks():
    value = Costly()
    hooks = hooks_of(Picky())
    hooks.begin("train")
    for step in range(7):
        end_of_step(hooks, "train", step, {"loss": value})
    assert value.brought == 2
    two_look = hooks_of(Records(), Records())
    two_look.begin("train")
    end_of_step(two_look, "train", 0, {"loss": value})
    assert value.brought == 3
    nobody = hooks_of(Callback(), keras.callbacks.History())
    nobody.begin("train")
    end_of_step(nobody, "train", 0, {"loss": value})
    assert value.brought == 3


def test_a_fit_honours_what_a_callback_wants():
    picky = Picky()
    CustomTrainer(model()).fit(X, X[:, :1], 1, callbacks=[picky], verbose=0)
    steps = [note[2] for note in picky.notes if note[1] == "on_train_batch_end"]
    assert (picky.asked, steps) == (list(range(6)), [2, 5])


# callback_list


def names_of(callbacks: keras.callbacks.CallbackList) -> list[str]:
    return [type(callback).__name__ for callback in callbacks.callbacks]


GIVEN = {
    "none": (lambda: None, []),
    "one": (Records, ["Records"]),
    "list": (lambda: [Records(), Adds()], ["Records", "Adds"]),
    "nested list": (lambda: [Records(), [Adds(), Picky()]], ["Records", "Adds", "Picky"]),
}
PARAMS = {"verbose": 1, "epochs": 3, "steps": 5}


@pytest.mark.parametrize(("make", "names"), **each(GIVEN))
def test_all_callbacks_know_model_and_params(make, names):
    known = model()
    made = callback_list(make(), known, PARAMS)
    assert names_of(made) == names
    made = callback_list(make(), known, PARAMS, ProgressBar(), add_history=True)
    assert names_of(made) == [*names, "History", "ProgressBar"]
    for callback in made.callbacks:
        assert callback.model is known
        assert callback.params == PARAMS
    assert known.history is made.callbacks[-2]


def test_a_given_history_is_the_history():
    history, known = keras.callbacks.History(), model()
    made = callback_list([history, Records()], known, PARAMS, add_history=True)
    assert names_of(made) == ["History", "Records"]
    assert known.history is history


class OwnList(keras.callbacks.CallbackList):
    """A list with a hook of its own."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, {**logs, "by list": 1.0})


@pytest.mark.parametrize("kind", [keras.callbacks.CallbackList, OwnList])
def test_a_given_list_is_taken_as_it_is(kind):
    known, records = model(), Records()
    given = kind([records])
    assert callback_list(given, known, PARAMS) is given
    assert records.model is known
    assert records.params == PARAMS
    of_others = kind([records], model=known, epochs=9)
    callback_list(of_others, model(), PARAMS)
    assert records.model is known
    assert records.params == {"epochs": 9}


def test_a_list_with_a_hook_of_its_own_gets_it_called():
    known, records = model(), Records()
    hooks = Hooks(OwnList([records], model=known, epochs=1))
    hooks.begin("train")
    hooks.group_begin("train", 0)
    hooks.group_end("train", 0, 1, Ran(2, {"loss": tf.constant(1.0)}))
    hooks.end("train")
    assert [note[1:] for note in records.notes][1:3] == [
        ("on_train_batch_begin", 0, {}),
        ("on_train_batch_end", 1, {"by list": 1.0, "loss": 1.0}),
    ]
