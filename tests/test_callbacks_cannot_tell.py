"""Promise 3: a callback sees what it would see under `model.fit`, `evaluate` and `predict`."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.callbacks import InterruptionError, Stopper
from tests.helpers.comparisons import arrays_in, assert_same
from tests.helpers.data import BATCH, ROWS, batches_of, numbers, rows_of, two_like_batches
from tests.helpers.models import (
    Twins,
    compiled,
    dense,
    dense_by_three,
    dense_by_two,
    mlp,
    untrained,
    weights_of,
)
from tests.helpers.tables import each, without
from tests.helpers.ways import WAYS, Way, as_arrays, as_validation
from trainer import CustomTrainer

callbacks = keras.callbacks
Callback = keras.callbacks.Callback

DATA = (numbers(ROWS, 4), numbers(ROWS, 1, seed=1))
HELD_OUT = rows_of(DATA, 0, 40)

PAIRS = ("on_train", "on_test", "on_predict", "on_epoch")
BATCH_PAIRS = ("on_train_batch", "on_test_batch", "on_predict_batch")
EPOCH_HOOKS = [f"{pair}_{end}" for pair in PAIRS for end in ("begin", "end")]
BATCH_HOOKS = [f"{pair}_{end}" for pair in BATCH_PAIRS for end in ("begin", "end")]

# Keras compares its variables so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.xdist_group("dense"),
]
ignore_short_epochs = pytest.mark.filterwarnings(
    "ignore:.*ran out of data", "ignore:steps_per_epoch=", "ignore:validation_steps="
)


# What a callback sees


class Note(NamedTuple):
    """What a callback was told and what it found in one of its hooks."""

    hook: str
    positional: tuple
    keywords: dict[str, Any]
    params: dict[str, Any]
    iterations: int
    weights: int  # a checksum
    metrics: int  # a checksum


class Recorder(Callback):
    """Notes all that it sees in the hooks that `recorder_of` gives it."""

    def __init__(self):
        super().__init__()
        self.notes: list[Note] = []

    def note(self, hook: str, positional: tuple, keywords: dict[str, Any]) -> None:
        optimizer = self.model.optimizer
        found = (checksum(self.model.weights), checksum(self.model.metrics_variables))
        given = (tuple(map(_copy, positional)), {key: _copy(v) for key, v in keywords.items()})
        note = Note(hook, *given, dict(self.params), int(optimizer.iterations), *found)
        self.notes.append(note)


def checksum(variables: Iterable[keras.Variable]) -> int:
    """Returns a number that tells whether a bit has changed, 0 where all are 0 or not built yet."""
    values = (variable.numpy() for variable in variables)
    return zlib.crc32(b"".join(value.tobytes() for value in values if value.any()))


def _copy(argument: Any) -> Any:
    return dict(argument) if isinstance(argument, dict) else argument


def recorder_of(hooks: Iterable[str]) -> type[Recorder]:
    """Returns a recorder class that overrides `hooks` and no other."""

    def noting(hook: str) -> Callable:
        return lambda self, *args, **kwargs: self.note(hook, args, kwargs)

    return type("Recorder", (Recorder,), {hook: noting(hook) for hook in hooks})


AllHooks = recorder_of(EPOCH_HOOKS + BATCH_HOOKS)
EpochHooks = recorder_of(EPOCH_HOOKS)


def assert_same_notes(ours: list[Note], theirs: list[Note]) -> None:
    """Asserts that two recorders saw the same hooks, told the same, in the same state."""

    def told(notes: list[Note]) -> list[str]:
        numbers = [[arg for arg in note.positional if isinstance(arg, int)] for note in notes]
        return [f"{note.hook} {number}" for note, number in zip(notes, numbers, strict=True)]

    assert told(ours) == told(theirs)
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert_same(our._asdict(), their._asdict(), f"note {number}, {their.hook}: ")


def fit_both(
    twins: Twins,
    make: Callable[[Any], list[Callback]],
    give: Callable[[], dict[str, Any]] = lambda: {**as_arrays(DATA), "validation_data": HELD_OUT},
    **arguments: Any,
) -> None:
    """Fits twins with callbacks, and asserts that both end alike.

    Args:
        twins: the models.
        make: makes the callbacks; given what runs, the model or the trainer.
        give: makes the data.
        arguments: of `fit`.
    """
    arguments = {"epochs": 3, "shuffle": False, "verbose": 0, **arguments}
    made = []
    for runner in (twins.theirs, twins.trainer):
        made.append(make(runner))
        runner.fit(**give(), callbacks=made[-1], **arguments)
    for theirs, ours in zip(*made, strict=True):
        if isinstance(theirs, Recorder):
            assert_same_notes(ours.notes, theirs.notes)
    assert_same(twins.ours.history.history, twins.theirs.history.history, "history")
    assert_same(weights_of(twins.ours), weights_of(twins.theirs), "weights")


# Ways of giving data


def notes_of(runner: Any, recorder: type[Recorder], way: Way) -> dict[str, list[Note]]:
    """Returns what a recorder notes in a fit with validation, an evaluation and a prediction."""

    def seen_by(method: Callable, give: dict[str, Any], **arguments: Any) -> list[Note]:
        seen = recorder()
        method(**give, verbose=0, callbacks=[seen], **arguments)
        # Keras counts a step that found no batch, if a thread is quick enough.
        return [n._replace(iterations=0) if way.ends_unannounced else n for n in seen.notes]

    fit_limits = {"epochs": 1 if way.lives_once else 2, "shuffle": False}
    limits = {"steps": 3} if way.needs_steps else {}
    if way.needs_steps:
        fit_limits |= {"steps_per_epoch": 3, "validation_steps": 2}
    given = {**way.give(DATA), **as_validation(way.give(two_like_batches(DATA)))}
    return {
        "fit": seen_by(runner.fit, given, **fit_limits),
        "evaluate": seen_by(runner.evaluate, way.give(DATA), **limits),
        "predict": seen_by(runner.predict, way.give(DATA[:1]), **limits),
    }


@ignore_short_epochs
@pytest.mark.parametrize("recorder", [AllHooks, EpochHooks], ids=["all hooks", "epoch hooks"])
@pytest.mark.parametrize("way", **each(WAYS))
def test_ways(way: Way, recorder: type[Recorder]) -> None:
    twins = untrained(dense)
    theirs = notes_of(twins.theirs, recorder, way)
    ours = notes_of(twins.trainer, recorder, way)
    for run in theirs:
        assert_same_notes(ours[run], theirs[run])


@ignore_short_epochs
@pytest.mark.parametrize(
    "way", ["arrays", "tf.data", "tf.data of unknown length", "infinite tf.data", "PyDataset"]
)
def test_ways_with_three_steps_per_execution(way: str) -> None:
    twins = untrained(dense_by_three)
    theirs = notes_of(twins.theirs, AllHooks, WAYS[way])
    ours = notes_of(twins.trainer, AllHooks, WAYS[way])
    for run in theirs:
        assert_same_notes(ours[run], theirs[run])


@pytest.mark.parametrize("hook", BATCH_HOOKS)
def test_a_single_batch_hook(hook: str) -> None:
    recorder = recorder_of([hook])
    twins = untrained(dense)
    theirs = notes_of(twins.theirs, recorder, WAYS["arrays"])
    ours = notes_of(twins.trainer, recorder, WAYS["arrays"])
    assert any(theirs.values())
    for run in theirs:
        assert_same_notes(ours[run], theirs[run])


def test_hooks_by_their_old_names() -> None:
    recorder = recorder_of(["on_batch_begin", "on_batch_end"])
    fit_both(untrained(dense), lambda _: [recorder()])


# Arguments


ARGUMENTS = {
    "initial_epoch": ("arrays", {"initial_epoch": 1, "validation_data": HELD_OUT}),
    "initial_epoch at the end": ("arrays", {"initial_epoch": 3, "validation_data": HELD_OUT}),
    "verbose='auto'": ("arrays", {"verbose": "auto"}),
    "verbose=2": ("arrays", {"verbose": 2}),
    "validation_split": ("arrays", {"validation_split": 0.3}),
    "validation_freq=2": ("arrays", {"validation_data": HELD_OUT, "validation_freq": 2}),
    "validation_freq=[1, 3]": ("arrays", {"validation_data": HELD_OUT, "validation_freq": [1, 3]}),
    "validation_steps=1": ("arrays", {"validation_data": HELD_OUT, "validation_steps": 1}),
    "validation_steps=5": ("arrays", {"validation_data": HELD_OUT, "validation_steps": 5}),
    "validation_batch_size": ("arrays", {"validation_data": HELD_OUT, "validation_batch_size": 7}),
    "steps_per_epoch=2": ("arrays", {"steps_per_epoch": 2}),
    "steps_per_epoch=3": ("arrays", {"steps_per_epoch": 3}),
    "steps_per_epoch=6": ("arrays", {"steps_per_epoch": 6}),
    "steps_per_epoch=3 of tf.data": ("tf.data", {"steps_per_epoch": 3}),
    "steps_per_epoch=6 of tf.data": ("tf.data", {"steps_per_epoch": 6}),
    "steps_per_epoch=3 of PyDataset": ("PyDataset", {"steps_per_epoch": 3}),
    "steps_per_epoch=5 of infinite tf.data": ("infinite tf.data", {"steps_per_epoch": 5}),
}


SELDOM = (
    *("verbose=2", "validation_freq=2", "validation_steps=1", "steps_per_epoch=2"),
    *("steps_per_epoch=3 of tf.data", "initial_epoch at the end"),
)


@ignore_short_epochs
@pytest.mark.parametrize("recorder", [AllHooks, EpochHooks], ids=["all hooks", "epoch hooks"])
@pytest.mark.parametrize(("way", "arguments"), **each(ARGUMENTS, without(ARGUMENTS, *SELDOM)))
def test_arguments(way: str, arguments: dict[str, Any], recorder: type[Recorder]) -> None:
    give = WAYS[way].give
    fit_both(untrained(dense), lambda _: [recorder()], lambda: give(DATA), **arguments)


@ignore_short_epochs
@hypothesis.settings(max_examples=8)
@hypothesis.given(
    build=st.sampled_from([dense, dense_by_two, dense_by_three]),
    recorder=st.sampled_from([AllHooks, EpochHooks]),
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    epochs=st.integers(1, 4),
    steps_per_epoch=st.none() | st.integers(1, 7),
    validation_freq=st.integers(1, 3),
)
def test_any_arguments(build, recorder, rows, batch_size, **arguments) -> None:
    x, y = rows_of(DATA, 0, rows)
    given = {"x": x, "y": y, "batch_size": batch_size, "validation_data": (x, y)}
    fit_both(untrained(build), lambda _: [recorder()], lambda: given, **arguments)


# Hooks after a group

LONG = (
    numbers(21 * BATCH - 5, 4),
    numbers(21 * BATCH - 5, 1, seed=1),
)  # 21 batches, one of them odd
LONG_VALIDATION = rows_of(LONG, 0, 9 * BATCH)


@pytest.fixture
def _long_groups(monkeypatch):
    """Makes groups long, however slow the machine is."""
    monkeypatch.setattr("trainer.pace._SECONDS_A_CALL", 1e9)


class Watches(Callback):
    """Notes its batch hooks in the order that they come; `batch_hooks` says of what kind it is."""

    def __init__(self):
        super().__init__()
        self.notes: list[tuple] = []


def _watching(hook: str) -> Callable:
    return lambda self, batch, logs=None: self.notes.append((hook, batch, dict(logs)))


for _hook in BATCH_HOOKS[:4]:  # those of training and evaluation
    setattr(Watches, _hook, _watching(_hook))


class Reads(Watches):
    batch_hooks = "log"


def watched_by(runner: Any, kind: type[Watches], way: Way) -> dict[str, list[tuple]]:
    """Returns what a callback is told in a fit with validation, and in an evaluation."""
    fitting, evaluating = kind(), kind()
    limits = {"epochs": 1 if way.lives_once else 2, "shuffle": False, "verbose": 0}
    if way.needs_steps:
        limits["steps_per_epoch"] = 17
    arguments = {**way.give(LONG), "validation_data": LONG_VALIDATION, "validation_batch_size": 16}
    runner.fit(**arguments, callbacks=[fitting], **limits)
    steps = {"steps": 17} if way.needs_steps else {}
    runner.evaluate(**way.give(LONG), callbacks=[evaluating], verbose=0, **steps)
    return {"fit": fitting.notes, "evaluate": evaluating.notes}


@ignore_short_epochs
@pytest.mark.usefixtures("_long_groups")
@pytest.mark.parametrize(
    "name",
    [
        "arrays",
        "tensors",
        "tf.data",
        "tf.data of unknown length",
        "infinite tf.data",
        "PyDataset",
        "generator",
        "infinite generator",
    ],
)
def test_a_reader_of_logs_is_told_what_an_unknown_callback_is_told_by_keras(name: str) -> None:
    twins = untrained(dense)
    theirs = watched_by(twins.theirs, Watches, WAYS[name])
    ours = watched_by(twins.trainer, Reads, WAYS[name])
    for run in theirs:
        assert [note[:2] for note in ours[run]] == [note[:2] for note in theirs[run]], run
        assert_same(ours[run], theirs[run], run)
    for line in twins.trainer.explain().split("\n"):
        kept = "the logs of each step kept" in line
        assert kept or line.startswith("predict: ")  # of another test: the trainer is shared
    assert_same(twins.ours.get_weights(), twins.theirs.get_weights(), "weights")


@pytest.mark.usefixtures("_long_groups")
@pytest.mark.parametrize("readers", [[], [Reads]], ids=["alone", "beside a reader"])
@pytest.mark.parametrize("way", ["arrays", "tf.data", "tf.data of unknown length", "generator"])
@pytest.mark.parametrize("step", [0, 1, 12, 20])
def test_training_terminates_at_the_very_step_that_has_no_finite_loss(way, step, readers) -> None:
    x, y = (array.copy() for array in LONG)
    y[step * BATCH + 3] = np.nan
    made: list = []

    def make(_: Any) -> list[Callback]:
        made.append([reader() for reader in readers])
        return [callbacks.TerminateOnNaN(), *made[-1]]

    fit_both(untrained(dense), make, lambda: WAYS[way].give((x, y)), epochs=1)
    for theirs, ours in zip(*made, strict=True):
        assert len(ours.notes) == 2 * (step + 1)
        assert_same(ours.notes, theirs.notes)


@pytest.mark.usefixtures("_long_groups")
@pytest.mark.parametrize("frequency", [1, 5, 30])
def test_checkpoints_of_batches_hold_the_weights_after_these(frequency, tmp_path) -> None:
    def saved_by(runner: Any, name: str) -> dict[str, list]:
        pattern = str(tmp_path / name / "{epoch}-{batch}-{loss:.6f}.weights.h5")
        saving = callbacks.ModelCheckpoint(pattern, save_weights_only=True, save_freq=frequency)
        given = {**as_arrays(LONG), "callbacks": [saving, callbacks.History()]}
        runner.fit(**given, epochs=2, shuffle=False, verbose=0)
        return {path.name: _weights_in(path) for path in sorted((tmp_path / name).glob("*"))}

    twins = untrained(dense)
    theirs = saved_by(twins.theirs, "theirs")
    ours = saved_by(twins.trainer, "ours")
    assert len(ours) == 42 // frequency
    assert_same(ours, theirs)


def _weights_in(path: Path) -> list[np.ndarray]:
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(item[()]) if hasattr(item, "dtype") else None)
    return found


# Kinds of callbacks


def test_a_callback_list() -> None:
    def notes(runner: Any, model: keras.Model) -> dict[str, list[Note]]:
        seen = {"fit": AllHooks(), "evaluate": AllHooks(), "predict": AllHooks()}

        def listed(run: str) -> callbacks.CallbackList:
            return callbacks.CallbackList(
                [seen[run]], add_history=True, model=model, epochs=2, steps=4, verbose=0, mark=run
            )

        given = {**as_arrays(DATA), "verbose": 0}
        runner.fit(**given, epochs=2, shuffle=False, callbacks=listed("fit"))
        runner.evaluate(**given, callbacks=listed("evaluate"))
        runner.predict(DATA[0], BATCH, verbose=0, callbacks=listed("predict"))
        return {run: recorder.notes for run, recorder in seen.items()}

    twins = untrained(dense)
    theirs = notes(twins.theirs, twins.theirs)
    ours = notes(twins.trainer, twins.ours)
    for run in theirs:
        assert_same_notes(ours[run], theirs[run])
    assert_same(twins.ours.history.history, twins.theirs.history.history, "history")


class CountingList(callbacks.CallbackList):
    """A list with a hook of its own."""

    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.batches += 1
        if self.batches == 3:
            self.model.stop_training = True


def test_a_callback_list_with_hooks_of_its_own() -> None:
    def notes(runner: Any, model: keras.Model) -> list[Note]:
        seen = AllHooks()
        listed = CountingList([seen], add_history=True, model=model, epochs=2, steps=4, verbose=0)
        runner.fit(**as_arrays(DATA), shuffle=False, epochs=2, verbose=0, callbacks=listed)
        return seen.notes

    twins = untrained(dense)
    theirs = notes(twins.theirs, twins.theirs)
    assert_same_notes(notes(twins.trainer, twins.ours), theirs)


def test_lambda_callback() -> None:
    seen: dict[str, list] = {"ours": [], "theirs": []}

    def make(runner: Any) -> list[Callback]:
        notes = seen["ours" if isinstance(runner, CustomTrainer) else "theirs"]

        def noting(hook: str) -> Callable:
            return lambda *args, **kwargs: notes.append((hook, args, kwargs))

        return [callbacks.LambdaCallback(**{h: noting(h) for h in EPOCH_HOOKS + BATCH_HOOKS})]

    fit_both(untrained(dense), make, epochs=2)
    assert_same(seen["ours"], seen["theirs"])


STOPS_OF_FIT = [
    ("stop_training", hook) for hook in [*EPOCH_HOOKS, *BATCH_HOOKS] if "predict" not in hook
] + [("stop_evaluating", h) for h in ("on_test_begin", "on_test_batch_begin", "on_test_batch_end")]


@pytest.mark.parametrize(("flag", "hook"), STOPS_OF_FIT)
def test_stopping_fit(flag: str, hook: str) -> None:
    call = 1 if hook.startswith("on_train_") and "batch" not in hook else 2
    fit_both(untrained(dense), lambda _: [Stopper(flag, hook, call), EpochHooks()])


@pytest.mark.parametrize("hook", ["batch_begin", "batch_end", "begin", "end"])
@pytest.mark.parametrize("run", ["evaluate", "predict"])
def test_stopping_evaluate_and_predict(run: str, hook: str) -> None:
    mode = "test" if run == "evaluate" else "predict"
    flag = "stop_evaluating" if run == "evaluate" else "stop_predicting"
    data = as_arrays(DATA if run == "evaluate" else DATA[:1])
    twins = untrained(dense)

    def result(runner: Any) -> tuple[Any, list[Note]]:
        stopper = Stopper(flag, f"on_{mode}_{hook}", call=2 if "batch" in hook else 1)
        seen = EpochHooks()
        result = getattr(runner, run)(**data, verbose=0, callbacks=[stopper, seen])
        return result, seen.notes

    theirs, ours = result(twins.theirs), result(twins.trainer)
    assert_same(ours[0], theirs[0])
    assert_same_notes(ours[1], theirs[1])


class EachBatch(Callback):
    """Calls `act(callback, batch, logs)` after each training batch."""

    def __init__(self, act: Callable[[Callback, int, dict], Any]):
        super().__init__()
        self._act = act

    def on_train_batch_end(self, batch, logs=None):
        self._act(self, batch, logs)


class EachEpoch(Callback):
    """Calls `act(callback, epoch, logs)` after each epoch."""

    def __init__(self, act: Callable[[Callback, int, dict], Any]):
        super().__init__()
        self._act = act

    def on_epoch_end(self, epoch, logs=None):
        self._act(self, epoch, logs)


def slow_down(callback: Callback, *_: Any) -> None:
    callback.model.optimizer.learning_rate *= 0.7


def shrink_weights(callback: Callback, *_: Any) -> None:
    callback.model.layers[0].kernel.assign(0.5 * callback.model.layers[0].kernel)


def reset_metrics(callback: Callback, *_: Any) -> None:
    callback.model.reset_metrics()


def add_a_key(callback: Callback, number: int, logs: dict) -> None:
    logs["added"] = 10.0 * number


ACTS = {
    "a learning rate each batch": EachBatch(slow_down),
    "a learning rate each epoch": EachEpoch(slow_down),
    "weights each batch": EachBatch(shrink_weights),
    "weights each epoch": EachEpoch(shrink_weights),
    "metrics each batch": EachBatch(reset_metrics),
    "metrics each epoch": EachEpoch(reset_metrics),
    "a log key each batch": EachBatch(add_a_key),
    "a log key each epoch": EachEpoch(add_a_key),
}


@pytest.mark.parametrize("act", **each(ACTS))
def test_changing(act: Callback) -> None:
    fit_both(untrained(dense), lambda _: [act, AllHooks()])


@pytest.mark.parametrize("when", [EachBatch, EachEpoch])
def test_evaluating_and_predicting_in_a_hook(when: Callable) -> None:
    results: dict[str, list] = {"ours": [], "theirs": []}

    def make(runner: Any) -> list[Callback]:
        found = results["ours" if isinstance(runner, CustomTrainer) else "theirs"]

        def look(callback: Callback, number: int, logs: dict) -> None:
            if number < 2:
                found.append(runner.evaluate(*HELD_OUT, verbose=0, return_dict=True))
                found.append(runner.predict(HELD_OUT[0], verbose=0))

        return [when(look), AllHooks()]

    fit_both(untrained(dense), make)
    assert_same(results["ours"], results["theirs"])


# Keras's own callbacks


def contents_of(folder: Path) -> dict[str, Any]:
    """Returns what is in the files below a folder, by their paths."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".h5":
            found[name] = arrays_in(path)
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                found[name] = arrays_in(io.BytesIO(archive.read("model.weights.h5")))
        elif "tfevents" in path.name:
            found.setdefault(f"events in {path.parent.relative_to(folder)}", []).extend(
                events_in(path)
            )
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def events_in(path: Path) -> list[tuple]:
    """Returns step, tag and value of each summary, but for what is measured in seconds."""
    return [
        (event.step, value.tag, tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if "per_second" not in value.tag and value.tag != "keras"
    ]


def averaging() -> keras.Model:
    return compiled(mlp(), keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7))


def write_on_epochs(folder: Path) -> list[Callback]:
    return [
        callbacks.ModelCheckpoint(
            folder / "{epoch:02d}-{val_loss:.3f}.weights.h5", save_weights_only=True
        ),
        callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_mae", save_best_only=True),
        callbacks.CSVLogger(folder / "log.csv", separator=";"),
    ]


BUILT_IN = {
    "EarlyStopping": lambda _: [
        callbacks.EarlyStopping("val_loss", 0.05, patience=1, restore_best_weights=True)
    ],
    "EarlyStopping of a baseline": lambda _: [
        callbacks.EarlyStopping("loss", baseline=0.1, start_from_epoch=1, restore_best_weights=True)
    ],
    "ReduceLROnPlateau": lambda _: [
        callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1.0, cooldown=1)
    ],
    "LearningRateScheduler": lambda _: [
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5**epoch)
    ],
    "History": lambda _: [callbacks.History()],
    "writing on epochs": write_on_epochs,
    "ModelCheckpoint each 3 batches": lambda folder: [
        callbacks.ModelCheckpoint(folder / "{epoch}-{batch}-{loss:.5f}.keras", save_freq=3)
    ],
    "weights by ModelCheckpoint each 2 batches": lambda folder: [
        callbacks.ModelCheckpoint(
            folder / "{epoch}-{batch}.weights.h5", save_freq=2, save_weights_only=True
        )
    ],
    "TensorBoard each epoch": lambda folder: [
        callbacks.TensorBoard(folder, histogram_freq=1, write_graph=False)
    ],
    "TensorBoard each 2 batches": lambda folder: [callbacks.TensorBoard(folder, update_freq=2)],
}


@pytest.mark.parametrize("recorder", [AllHooks, EpochHooks], ids=["all hooks", "epoch hooks"])
@pytest.mark.parametrize(
    "make",
    **each(
        BUILT_IN,
        without(
            BUILT_IN,
            *("EarlyStopping of a baseline", "weights by ModelCheckpoint each 2 batches"),
            *("History", "writing on epochs"),
        ),
    ),
)
def test_built_in(make: Callable[[Path], list[Callback]], recorder, tmp_path: Path) -> None:
    folders = []

    def made(runner: Any) -> list[Callback]:
        folders.append(tmp_path / str(len(folders)))
        folders[-1].mkdir()
        return [*make(folders[-1]), recorder()]

    fit_both(untrained(dense), made, epochs=4)
    theirs, ours = map(contents_of, folders)
    assert_same(ours, theirs, "files")


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_swap_ema_weights(swap_on_epoch: bool) -> None:
    def make(_: Any) -> list[Callback]:
        return [callbacks.SwapEMAWeights(swap_on_epoch), AllHooks()]

    fit_both(untrained(averaging), make)


@pytest.mark.parametrize("recorder", [AllHooks, EpochHooks], ids=["all hooks", "epoch hooks"])
def test_terminate_on_nan(recorder: type[Recorder]) -> None:
    x, y = DATA
    y = np.where(np.arange(ROWS)[:, None] == 2 * BATCH, np.nan, y)
    fit_both(
        untrained(dense),
        lambda _: [callbacks.TerminateOnNaN(), recorder()],
        lambda: {**as_arrays((x, y)), "validation_data": HELD_OUT},
    )


def interrupt(callback: Callback, batch: int, logs: dict) -> None:
    if int(callback.model.optimizer.iterations) == 7:
        raise InterruptionError


@pytest.mark.parametrize("save_freq", [pytest.param("epoch", marks=pytest.mark.exhaustive), 2])
def test_backup_and_restore(save_freq: str | int, tmp_path: Path) -> None:
    interrupted, resumed = Twins(dense), Twins(dense)

    def notes(name: str, runner_of: Callable[[keras.Model], Any]) -> list[Note]:
        seen = AllHooks()
        backup = callbacks.BackupAndRestore(tmp_path / name, save_freq=save_freq)
        given = {**as_arrays(DATA), "validation_data": HELD_OUT}
        given |= {"epochs": 3, "shuffle": False, "verbose": 0}
        with contextlib.suppress(InterruptionError):
            runner_of(getattr(interrupted, name)).fit(
                **given, callbacks=[backup, seen, EachBatch(interrupt)]
            )
        assert len(seen.notes) > 7
        runner_of(getattr(resumed, name)).fit(**given, callbacks=[backup, seen])
        return seen.notes

    theirs = notes("theirs", lambda model: model)
    assert_same_notes(notes("ours", CustomTrainer), theirs)
    for twins in (interrupted, resumed):
        assert_same(weights_of(twins.ours), weights_of(twins.theirs), "weights")
    assert_same(resumed.ours.history.history, resumed.theirs.history.history, "history")


def test_the_progress_bar_of_keras_replaces_ours(capsys) -> None:
    twins = untrained(dense)

    def printed(run: Callable, **arguments: Any) -> str:
        run(**arguments, verbose=1)
        text = capsys.readouterr().out
        return re.sub(r"\d+m?s(/step)?|\d+us/step", "TIME", text)

    given = {**as_arrays(DATA), "validation_data": HELD_OUT, "epochs": 2, "shuffle": False}
    bar = {"callbacks": [callbacks.ProgbarLogger()]}
    theirs = printed(twins.theirs.fit, **given)
    ours = printed(twins.trainer.fit, **given, **bar)
    assert last_lines(ours) == last_lines(theirs)
    assert last_lines(ours) != last_lines(printed(twins.trainer.fit, **given))


def last_lines(printed: str) -> list[str]:
    """Returns the lines as a terminal shows them in the end."""
    lines = printed.replace("\x08", "").split("\n")
    return [line.rpartition("\r")[2] for line in lines]


# What is ours by intent


def test_a_generator_that_ends_before_the_last_epoch() -> None:
    """`model.fit` trains further epochs on the two batches that it looked at before it began."""
    twins = untrained(dense)
    theirs, ours = AllHooks(), AllHooks()
    twins.theirs.fit(*DATA, BATCH, epochs=1, shuffle=False, verbose=0, callbacks=[theirs])
    with pytest.warns(UserWarning, match="a generator yields its batches once"):
        twins.trainer.fit(
            (batch for batch in batches_of(DATA)), epochs=3, verbose=0, callbacks=[ours]
        )
    assert_same(twins.ours.history.history, twins.theirs.history.history, "history")
    assert_same(weights_of(twins.ours), weights_of(twins.theirs), "weights")
    ends = [note.hook for note in ours.notes].count("on_epoch_end")
    assert ends == 1
    assert ours.notes[-1].hook == "on_train_end"
