"""Promise 2: how many steps run in one compiled call changes no number, no log and no hook."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.callbacks import InterruptionError, Stopper
from tests.helpers.comparisons import arrays_in, assert_same
from tests.helpers.data import BATCH, Batches, numbers, rows_of
from tests.helpers.models import Twins, compiled, mlp, seeded, untrained, weights_of
from tests.helpers.tables import each, names_of
from tests.helpers.ways import as_arrays, as_infinite_generator, dataset_of
from trainer import CustomTrainer, program
from trainer.pace import Pace
from trainer.traced_shapes import keras_traces_batches

callbacks = keras.callbacks
Callback = keras.callbacks.Callback

# Keras compares its variables so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.xdist_group("regular"),
]

STEPS = 60  # batches an epoch
EVEN = (numbers(STEPS * BATCH, 4), numbers(STEPS * BATCH, 1, seed=1))
ODD = rows_of(EVEN, 0, STEPS * BATCH - 5)
HELD_OUT = rows_of(EVEN, 0, 9 * BATCH + 3)

# How long a group is


@pytest.fixture(autouse=True)
def _as_long_as_the_callbacks_let_it(monkeypatch):
    """Leaves the clock out of it: a group ends with the epoch, or where a callback wants it to."""
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    unhurried = property(lambda pace: 10**6, lambda pace, steps: vars(pace).update(steps=steps))
    monkeypatch.setattr(Pace, "steps", unhurried, raising=False)


class EndsGroups(Callback):
    """Makes a group end after every `n`-th batch of an epoch."""

    def __init__(self, n: int):
        super().__init__()
        self._n = n

    def wants_batch(self, step: int) -> bool:
        return (step + 1) % self._n == 0

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_batch_end(self, batch, logs=None):
        pass


class Unknown(Callback):
    """May do anything, for all that the trainer knows."""

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_batch_end(self, batch, logs=None):
        pass


LENGTHS: dict[str, Callable[[], list[Callback]]] = {
    "1": lambda: [Unknown()],
    "2": lambda: [EndsGroups(2)],
    "7": lambda: [EndsGroups(7)],
    "50": lambda: [EndsGroups(50)],
    "an epoch": list,
}
GROUPED = {name: LENGTHS[name] for name in ("2", "7", "an epoch")}


class Notes(Callback):
    """Notes each hook that it has, with its batch or epoch and its logs."""

    def __init__(self):
        super().__init__()
        self.notes: list[tuple] = []

    def of(self, *hooks: str) -> list[tuple]:
        """Returns the notes of some hooks."""
        return [note for note in self.notes if note[0] in hooks]


def noting(base: type[Notes], *hooks: str) -> type:
    """Returns a class of callbacks that note `hooks` and have no others."""

    def note(hook: str) -> Callable:
        def noted(self: Notes, *args: Any, logs: Any = None) -> None:
            number = args[0] if args and isinstance(args[0], int) else None
            logs = args[-1] if args and isinstance(args[-1], dict) else logs
            self.notes.append((hook, number, dict(logs or {})))

        return noted

    return type(base.__name__, (base,), {hook: note(hook) for hook in hooks})


PLAIN = [f"on_{what}_{end}" for what in ("train", "epoch", "test") for end in ("begin", "end")]
BATCH_BEGINS = ["on_train_batch_begin", "on_test_batch_begin"]
BATCH_ENDS = ["on_train_batch_end", "on_test_batch_end"]


class ReadsBase(Notes):
    batch_hooks = "log"


class ShowsBase(Notes):
    batch_hooks = "show"


class WantsBase(Notes):
    def wants_batch(self, step: int) -> bool:
        return step % 3 == 1


Epochs = noting(Notes, *PLAIN)
All = noting(Notes, *PLAIN, *BATCH_BEGINS, *BATCH_ENDS)
Reads = noting(ReadsBase, *PLAIN, *BATCH_BEGINS, *BATCH_ENDS)
Shows = noting(ShowsBase, *PLAIN, *BATCH_BEGINS, *BATCH_ENDS)
Wants = noting(WantsBase, *PLAIN, *BATCH_ENDS)


@pytest.mark.parametrize(
    ("length", "ends"),
    [
        ("1", [*range(STEPS)]),
        ("2", [*range(1, STEPS, 2)]),
        ("7", [*range(6, STEPS, 7), STEPS - 1]),
        ("50", [49, STEPS - 1]),
        ("an epoch", [STEPS - 1]),
    ],
)
def test_groups_are_as_long_as_these_tests_say(length, ends):
    shows = Shows()
    untrained(regular).trainer.fit(
        **as_arrays(EVEN), verbose=0, callbacks=[*LENGTHS[length](), shows]
    )
    assert [batch for _, batch, _ in shows.of("on_train_batch_end")] == ends


# Numbers


def regular() -> keras.Model:
    """Returns a model with all that has a state of its own."""
    layers = (keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    return compiled(mlp(*layers), keras.optimizers.Adam(0.01))


def as_shuffled_dataset(data: tuple, anew: bool = False) -> dict[str, Any]:
    """Gives rows in another order, in each epoch the same unless `anew`.

    Keras begins a pass of known length more after each epoch, and so has other orders.
    """
    keras.utils.set_random_seed(5)
    rows = tf.data.Dataset.from_tensor_slices(data)
    return {"x": rows.shuffle(100, seed=3, reshuffle_each_iteration=anew).batch(BATCH)}


def as_shuffled_dataset_of_unknown_length(data: tuple) -> dict[str, Any]:
    return {"x": as_shuffled_dataset(data)["x"].filter(lambda *_: True)}


class Case(NamedTuple):
    """A way of giving data, and a way for Keras to be given the same without a surplus step."""

    give: Callable
    give_keras: Callable
    array_budget: int | None = None


CASES = {
    "arrays": Case(as_arrays, as_arrays),
    "streamed arrays": Case(as_arrays, as_arrays, array_budget=0),
    "tf.data": Case(as_shuffled_dataset, as_shuffled_dataset),
    "tf.data of unknown length": Case(as_shuffled_dataset_of_unknown_length, as_shuffled_dataset),
    "PyDataset": Case(lambda data: {"x": Batches(data)}, as_arrays),
}
SIZES = {"odd": ODD, "even": EVEN}


def fitted(
    runner: Any,
    given: dict[str, Any],
    listed: list[Callback],
    budget: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Returns the history and all variables after two epochs with validation."""
    arguments = {"epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    held_out = {"validation_data": HELD_OUT, "validation_batch_size": BATCH}
    if isinstance(runner, CustomTrainer):
        runner.array_budget = budget
    history = runner.fit(**given, **held_out, callbacks=listed, **arguments).history
    model = runner.model if isinstance(runner, CustomTrainer) else runner
    return {"history": dict(history), "weights": weights_of(model)}


@functools.cache
def fitted_by_keras(case: str, size: str) -> dict[str, Any]:
    return fitted(untrained(regular).theirs, CASES[case].give_keras(SIZES[size]), [])


@pytest.mark.parametrize("length", names_of(LENGTHS, ["7", "an epoch"]))
@pytest.mark.parametrize(
    ("case", "size"), [*((case, "odd") for case in CASES), ("arrays", "even"), ("tf.data", "even")]
)
def test_numbers_are_those_of_keras(case, size, length):
    theirs = fitted_by_keras(case, size)
    give, _, budget = CASES[case]
    trainer = untrained(regular).trainer
    assert_same(fitted(trainer, give(SIZES[size]), LENGTHS[length](), budget), theirs)


@pytest.mark.parametrize(
    ("case", "then"),  # the odd last batch is a chunk of its own
    [("arrays", [STEPS - 1] * 2), ("streamed arrays", [STEPS - 2, STEPS - 1] * 2)],
)
def test_first_steps_that_go_alone_change_no_number(case, then, monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 25)
    trainer, shows = CustomTrainer(seeded(regular)), Shows()
    ours = fitted(trainer, as_arrays(ODD), [shows], CASES[case].array_budget)
    assert_same(ours, fitted_by_keras(case, "odd"))
    ends = [batch for _, batch, _ in shows.of("on_train_batch_end")]
    if keras_traces_batches():  # an odd batch has a trace of its own
        then = [STEPS - 2, STEPS - 1] * 2
    assert ends == [*range(25), *then]


@pytest.mark.parametrize("length", list(GROUPED))
@pytest.mark.parametrize("case", ["arrays", "tf.data of unknown length"])
def test_who_looks_on_changes_no_number(case, length, capsys):
    """A bar or a reader of each step's logs makes another compiled function of the same steps."""
    theirs = fitted_by_keras(case, "odd")
    for looking_on, verbose in (([], 1), ([Reads()], 0), ([Reads()], 1)):
        given = CASES[case].give(ODD)
        listed = [*GROUPED[length](), *looking_on]
        ours = fitted(untrained(regular).trainer, given, listed, verbose=verbose)
        assert_same(ours, theirs)
        printed = capsys.readouterr().out
        for epoch in range(2):
            assert printed == "" or told_of(printed, theirs["history"], epoch), printed


def told_of(printed: str, history: dict[str, list], epoch: int) -> bool:
    """Returns whether a bar ended with all steps of an epoch and the values of its history."""
    last = [line.rpartition("\r")[2] for line in re.split("\n", printed) if "Epoch" in line][epoch]
    told = [f"{key}={values[epoch]:.4g}" for key, values in history.items()]
    counted = f"{STEPS}/{STEPS}" in last or f"{STEPS} steps" in last
    return counted and all(part in last for part in told)


SHUFFLED = {
    "arrays": (as_arrays, None),
    "streamed arrays": (as_arrays, 0),
    "PyDataset": (lambda data: {"x": Batches(data)}, None),
    "tf.data": (functools.partial(as_shuffled_dataset, anew=True), None),
}


@pytest.mark.parametrize(("give", "budget"), **each(SHUFFLED, ["streamed arrays", "PyDataset"]))
def test_numbers_of_shuffled_data_are_those_of_single_steps(give, budget):
    singly, grouped = (CustomTrainer(seeded(regular), seed=3) for _ in range(2))
    histories = []
    for length in ("2", "7", "50", "an epoch"):  # each goes on where the one before ended
        how = {"budget": budget, "shuffle": True}
        theirs = fitted(singly, give(ODD), [Unknown()], **how)
        assert_same(fitted(grouped, give(ODD), LENGTHS[length](), **how), theirs, length)
        histories.append(theirs["history"]["loss"])
    assert len(set(map(tuple, histories))) == len(histories)


def plain() -> keras.Model:
    return compiled(mlp(), keras.optimizers.Adam(0.01))


def test_groups_end_with_a_chunk_of_streamed_arrays():
    steps = 521  # a chunk has 512 at most
    x, y = numbers(2 * steps - 1, 4), numbers(2 * steps - 1, 1, seed=1)
    given = {"x": x, "y": y, "batch_size": 2}
    theirs = fitted(untrained(plain).theirs, given, [])
    shows = Shows()
    assert_same(fitted(untrained(plain).trainer, given, [shows], budget=0), theirs)
    ends = [batch for _, batch, _ in shows.of("on_train_batch_end")]
    assert ends[-1] == steps - 1
    assert len(ends) > 2, "no chunk ended within an epoch"
    read = fitted(untrained(plain).trainer, given, [Reads(), EndsGroups(100)], budget=0)
    assert_same(read, theirs, "with a reader")


def under_xla() -> keras.Model:
    return compiled(mlp(keras.layers.Dropout(0.3)), keras.optimizers.Adam(0.01), jit_compile=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["arrays", "tf.data of unknown length"])
def test_numbers_under_xla_are_the_same_in_groups_of_any_length(case):
    trainer = untrained(under_xla).trainer
    singly = fitted(trainer, CASES[case].give(ODD), [Unknown()])
    for length in ("2", "7", "50", "an epoch"):
        untrained(under_xla)
        assert_same(fitted(trainer, CASES[case].give(ODD), LENGTHS[length]()), singly, length)
    untrained(under_xla)
    read = fitted(trainer, CASES[case].give(ODD), [Reads()])
    assert_same(read, singly, "with a reader")


# Hooks


@functools.cache
def told_by_keras(case: str) -> list[tuple]:
    seen = All()
    fitted(untrained(regular).theirs, CASES[case].give_keras(ODD), [seen])
    return seen.notes


def without_surplus(notes: list[tuple]) -> list[tuple]:
    """Leaves out the begin of a batch that then was not there: data of unknown length have it."""
    return [note for note in notes if note[:2] != ("on_train_batch_begin", STEPS)]


def is_subsequence(few: list, many: list) -> bool:
    rest = iter(many)
    return all(any(item == other for other in rest) for item in few)


@pytest.mark.parametrize("length", names_of(LENGTHS, ["2", "7", "an epoch"]))
@pytest.mark.parametrize("case", ["arrays", "tf.data of unknown length", "PyDataset"])
def test_callbacks_of_all_kinds_together_are_told_what_keras_tells_them(case, length):
    theirs = told_by_keras(case)
    epochs, wants, reads, shows = Epochs(), Wants(), Reads(), Shows()
    unknown = [All()] if length == "1" else []
    listed = [epochs, shows, *LENGTHS[length](), reads, wants, *unknown]
    fitted(untrained(regular).trainer, CASES[case].give(ODD), listed)

    for callback in (reads, *unknown):
        assert_same(without_surplus(callback.notes), theirs, type(callback).__name__)
    assert_same(epochs.notes, [note for note in theirs if note[0] in PLAIN], "epochs")
    wanted = [
        n for n in theirs if n[0] in PLAIN or (n[0] in BATCH_ENDS and wants.wants_batch(n[1]))
    ]
    assert_same(wants.notes, wanted, "wants_batch")
    assert is_subsequence(without_surplus(shows.notes), theirs)
    for hook in BATCH_ENDS:
        last = max(note[1] for note in theirs if note[0] == hook)
        shown = [note for note in shows.of(hook) if note[1] == last]
        assert_same(shown, [note for note in theirs if note[:2] == (hook, last)], "show")
    if length == "an epoch":  # the callback that wants every third batch ended the groups
        assert len(shows.of("on_train_batch_end")) == 2 * (STEPS // 3 + 1)


# Stopping

EPOCH = 10
TWO_EPOCHS = 2 * EPOCH


def added_to_the_loss(y_true, y_pred):
    """Is finite in its gradient: only the loss is told that something is wrong."""
    return keras.ops.square(y_pred - y_true[:, :1]) + y_true[:, 1:]


def with_marks() -> keras.Model:
    return compiled(mlp(), keras.optimizers.SGD(0.01, momentum=0.5), added_to_the_loss, metrics=[])


def marked(step: int, mark: float) -> tuple:
    """Returns data for two epochs, with something to add to the loss of one row of a batch."""
    x, y = rows_of(EVEN, 0, TWO_EPOCHS * BATCH)
    marks = np.zeros_like(y)
    marks[step * BATCH + 2] = mark
    return x, np.concatenate([y, marks], axis=1)


def as_repeated(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data).repeat()}


MARKED = {"arrays": as_arrays, "tf.data": as_repeated, "generator": as_infinite_generator}


def ended(runner: Any, given: dict[str, Any], raise_error: bool) -> dict[str, Any]:
    """Returns how two epochs with `TerminateOnNaN` end."""
    seen, error = Epochs(), None
    listed = [callbacks.TerminateOnNaN(raise_error=raise_error), seen]
    limits = {"epochs": 2, "steps_per_epoch": EPOCH, "shuffle": False, "verbose": 0}
    try:
        runner.fit(**given, validation_data=marked(0, 0.0), callbacks=listed, **limits)
    except RuntimeError as raised:
        error = str(raised)
    model = getattr(runner, "model", runner)
    return {"notes": seen.notes, "error": error, "weights": weights_of(model)}


@pytest.mark.parametrize("step", [0, 3, 9, EPOCH + 3])
@pytest.mark.parametrize(
    ("mark", "raise_error"),
    **each(
        {
            "nan": (np.nan, False),
            "inf": (np.inf, False),
            "-inf": (-np.inf, False),
            "raising": (np.nan, True),
        },
        ["nan", "raising"],
    ),
)
@pytest.mark.parametrize("way", list(MARKED))
def test_training_terminates_at_the_step_where_the_loss_is_not_finite(way, mark, raise_error, step):
    twins, data = untrained(with_marks), marked(step, mark)
    before = twins.trainer.step
    theirs = ended(twins.theirs, MARKED[way](data), raise_error)
    ours = ended(twins.trainer, MARKED[way](data), raise_error)
    assert_same(ours, theirs)
    assert np.isfinite(twins.ours.get_weights()[0]).all()
    assert (ours["error"] is not None) == raise_error
    assert twins.trainer.step - before == int(twins.ours.optimizer.iterations) == step + 1


class StopsAtAWantedBatch(Callback):
    """Stops training at a batch that it names ahead."""

    def __init__(self, batch: int):
        super().__init__()
        self._batch = batch

    def wants_batch(self, step: int) -> bool:
        return step == self._batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self._batch:
            self.model.stop_training = True


STOPS = {
    "on_train_begin": lambda: Stopper("stop_training", "on_train_begin", 1),
    "on_epoch_begin": lambda: Stopper("stop_training", "on_epoch_begin", 2),
    "on_train_batch_begin": lambda: Stopper("stop_training", "on_train_batch_begin", 14),
    "on_train_batch_end": lambda: Stopper("stop_training", "on_train_batch_end", 14),
    "on_test_begin": lambda: Stopper("stop_training", "on_test_begin", 2),
    "on_test_batch_begin": lambda: Stopper("stop_training", "on_test_batch_begin", 3),
    "on_test_batch_end": lambda: Stopper("stop_training", "on_test_batch_end", 3),
    "on_test_end": lambda: Stopper("stop_training", "on_test_end", 1),
    "on_epoch_end": lambda: Stopper("stop_training", "on_epoch_end", 2),
    "a wanted batch": lambda: StopsAtAWantedBatch(7),
    "the last batch": lambda: StopsAtAWantedBatch(EPOCH - 1),
}


@pytest.mark.parametrize("stop", **each(STOPS))
@pytest.mark.parametrize("give", [as_arrays, as_repeated], ids=["arrays", "tf.data"])
def test_training_stops_where_keras_does_after_long_groups(give, stop):
    twins, results = untrained(with_marks), []
    limits = {"steps_per_epoch": EPOCH, "shuffle": False, "verbose": 0}
    for runner in (twins.theirs, twins.trainer):
        runner.fit(**give(marked(0, 0.0)), **limits)
        seen = Epochs()
        held_out = {"validation_data": marked(0, 0.0), "validation_steps": 4}
        listed = [stop(), seen]
        runner.fit(**give(marked(0, 0.0)), **held_out, epochs=3, callbacks=listed, **limits)
        model = getattr(runner, "model", runner)
        results.append({"notes": seen.notes, "weights": weights_of(model)})
    theirs, ours = results
    assert int(twins.theirs.optimizer.iterations) < 4 * EPOCH
    assert_same(ours, theirs)


# Saving every so many batches


class OwnEpochEnd(callbacks.ModelCheckpoint):
    """Does more at the end of an epoch, and treats batches as its base does."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.epochs_ended = [*getattr(self, "epochs_ended", []), epoch]


def files_in(folder: Path) -> dict[str, Any]:
    return {path.name: arrays_in(path) for path in sorted(folder.glob("*.h5"))}


@pytest.mark.parametrize("length", list(GROUPED))
@pytest.mark.parametrize(
    ("kind", "give"),
    [
        (callbacks.ModelCheckpoint, as_arrays),
        (callbacks.ModelCheckpoint, as_repeated),
        (OwnEpochEnd, as_arrays),
    ],
    ids=["arrays", "tf.data", "own on_epoch_end"],
)
def test_checkpoints_are_those_of_keras(kind, give, length, tmp_path):
    """In epochs of 10 batches, and on into a second fit with the same callback."""
    twins, saved = untrained(with_marks), []
    for runner in (twins.theirs, twins.trainer):
        folder = tmp_path / str(len(saved))
        pattern = str(folder / "{epoch}-{batch}-{loss:.6f}.weights.h5")
        saving = kind(pattern, save_weights_only=True, save_freq=7)
        shows = Shows()
        listed = [saving, shows, *(GROUPED[length]() if runner is twins.trainer else [])]
        for epochs in (3, 2):
            limits = {"steps_per_epoch": EPOCH, "epochs": epochs, "shuffle": False, "verbose": 0}
            runner.fit(**give(marked(0, 0.0)), callbacks=listed, **limits)
        saved.append((files_in(folder), getattr(saving, "epochs_ended", None)))
    assert len(saved[0][0]) == 5 * EPOCH // 7
    assert_same(saved[1], saved[0])
    ends = {"2": 5 * 5 + 4, "7": 3 * 5 + 5, "an epoch": 5 + 7}[length]
    assert len(shows.of("on_train_batch_end")) <= ends, "groups are shorter than need be"


class CopiesBackup(Callback):
    """Copies what a backup holds at the end of each epoch."""

    def __init__(self, backup: Path, to: Path):
        super().__init__()
        self._backup, self._to = backup, to

    def on_epoch_end(self, epoch, logs=None):
        iterations = int(self.model.optimizer.iterations)
        for path in self._backup.glob("*"):
            self._to.mkdir(exist_ok=True)
            shutil.copy(path, self._to / f"{iterations}-{path.name}")


class Interrupts(Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise InterruptionError


@pytest.mark.parametrize("length", list(GROUPED))
def test_backups_are_those_of_keras(length, tmp_path):
    """Also where a second fit with the same callback goes on from an interrupted one."""
    twins, seen = Twins(with_marks), []  # a restored epoch stays with the model
    limits = {"steps_per_epoch": EPOCH, "shuffle": False, "verbose": 0}
    for runner in (twins.theirs, twins.trainer):
        folder = tmp_path / str(len(seen))
        backup = callbacks.BackupAndRestore(folder / "backup", save_freq=7, delete_checkpoint=False)
        copies = CopiesBackup(folder / "backup", folder / "copies")
        listed = [backup, copies, *(GROUPED[length]() if runner is twins.trainer else [])]
        with pytest.raises(InterruptionError):
            runner.fit(
                **as_arrays(marked(0, 0.0)), epochs=5, callbacks=[*listed, Interrupts()], **limits
            )
        epochs = Epochs()
        runner.fit(**as_arrays(marked(0, 0.0)), epochs=5, callbacks=[*listed, epochs], **limits)
        metadata = {
            path.name: path.read_bytes() for path in sorted((folder / "copies").glob("*.json"))
        }
        weights = weights_of(getattr(runner, "model", runner))
        files = files_in(folder / "copies")
        seen.append({"files": files, "told": metadata, "notes": epochs.notes, "weights": weights})
    theirs, ours = seen
    assert len(theirs["files"]) >= 5
    assert [note[1] for note in theirs["notes"] if note[0] == "on_epoch_begin"] == [2, 3, 4]
    assert_same(ours, theirs)


# Batches, each once


class Ids(keras.metrics.Metric):
    """Keeps the number of each batch that it was given, over all epochs."""

    def __init__(self, name: str = "ids"):
        super().__init__(name=name)
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", dtype="int32")
        self.kept = self.add_weight(name="kept", shape=(200,), initializer="zeros", dtype="int32")

    def update_state(self, y_true, y_pred, sample_weight=None):
        here = keras.ops.arange(200) == self.count
        batch = keras.ops.cast(y_true[0, 0], "int32")
        self.kept.assign(keras.ops.where(here, batch, self.kept))
        self.count.assign_add(1)

    def result(self):
        return self.count

    def reset_state(self):
        pass

    def all(self) -> list[int]:
        return self.kept.numpy()[: int(self.count)].tolist()


def keeping_ids() -> keras.Model:
    return compiled(mlp(), metrics=[Ids()])


def ids_of(model: keras.Model) -> Ids | None:
    """Returns the metric, `None` where the model has not been used yet."""
    inner = (metric for part in model.metrics for metric in getattr(part, "metrics", ()))
    return next((metric for metric in inner if isinstance(metric, Ids)), None)


def fresh() -> Twins:
    """Returns twins that have seen no batch."""
    twins = untrained(keeping_ids)
    for ids in map(ids_of, (twins.theirs, twins.ours)):
        for variable in ids.variables if ids is not None else ():
            variable.assign(keras.ops.zeros_like(variable))
    return twins


def numbered(count: int) -> tf.data.Dataset:
    """Returns batches that tell their number as target."""
    x = rows_of(EVEN[0], 0, count * 2)
    y = np.repeat(np.arange(count, dtype="float32"), 2)[:, None]
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(2)


class Epoch(NamedTuple):
    """A dataset, how many steps of it an epoch has, and the batches of three epochs."""

    give: Callable[[], tf.data.Dataset]
    steps: int | None
    expected: list[int]


EPOCHS = {
    "known length": Epoch(lambda: numbered(13), None, [*range(13)] * 3),
    "unknown length": Epoch(lambda: numbered(13).filter(lambda *_: True), None, [*range(13)] * 3),
    "without end": Epoch(lambda: numbered(13).repeat(), 9, [n % 13 for n in range(27)]),
    "known length, in parts": Epoch(lambda: numbered(30), 9, [*range(27)]),
    "unknown length, in parts": Epoch(
        lambda: numbered(30).filter(lambda *_: True), 9, [*range(27)]
    ),
}


@pytest.mark.parametrize("length", list(LENGTHS))
@pytest.mark.parametrize("epoch", **each(EPOCHS))
def test_each_batch_is_used_once(epoch, length):
    twins = fresh()
    ends = Epochs()
    before = twins.trainer.step
    twins.trainer.fit(
        epoch.give(),
        epochs=3,
        steps_per_epoch=epoch.steps,
        verbose=0,
        callbacks=[*LENGTHS[length](), ends],
    )
    assert ids_of(twins.ours).all() == epoch.expected
    told = [logs["ids"] for hook, _, logs in ends.notes if hook == "on_epoch_end"]
    assert told == [len(epoch.expected) * n / 3 for n in (1, 2, 3)]
    iterations = int(twins.ours.optimizer.iterations)
    assert twins.trainer.step - before == iterations == len(epoch.expected)


# Errors


def breaking_dataset(batch: int) -> tf.data.Dataset:
    """Returns batches of which one cannot be made."""

    def checked(x, y):
        with tf.control_dependencies([tf.debugging.assert_less(y[0, 0], float(batch), "Broken")]):
            return tf.identity(x), y

    return numbered(13).map(checked)


def breaking_batches(batch: int) -> Iterator[tuple]:
    for number, pair in enumerate(numbered(13).as_numpy_iterator()):
        if number == batch:
            raise InterruptionError("Broken")
        yield pair


class BreakingBatches(keras.utils.PyDataset):
    def __init__(self, batch: int):
        super().__init__()
        self._batch = batch
        self._pairs = list(numbered(13).as_numpy_iterator())

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> tuple:
        if number == self._batch:
            raise InterruptionError("Broken")
        return self._pairs[number]


BREAKING = {
    "tf.data": (breaking_dataset, tf.errors.InvalidArgumentError),
    "generator": (breaking_batches, InterruptionError),
    "PyDataset": (BreakingBatches, InterruptionError),
}


@pytest.mark.parametrize("length", list(GROUPED))
@pytest.mark.parametrize("batch", [0, 3, 12])
@pytest.mark.parametrize(("make", "kind"), **each(BREAKING))
def test_a_batch_that_cannot_be_had_ends_training_after_the_step_before(make, kind, batch, length):
    twins = fresh()
    before = twins.trainer.step
    with pytest.raises(kind, match="Broken") as caught:
        twins.trainer.fit(make(batch), verbose=0, shuffle=False, callbacks=GROUPED[length]())
    assert f"(while training, epoch 0, step {batch})" in caught.value.__notes__
    steps = int(twins.ours.optimizer.iterations)
    assert twins.trainer.step - before == steps == batch
    if batch:
        twins.theirs.fit(numbered(13).take(batch), shuffle=False, verbose=0)
    assert_same(weights_of(twins.ours), weights_of(twins.theirs), "weights")
    twins.trainer.fit(numbered(13), verbose=0, callbacks=GROUPED[length]())  # and training goes on
    assert twins.trainer.step - before == int(twins.ours.optimizer.iterations) == batch + 13


class Raises(Callback):
    """Raises an error when `hook` comes for the `call`-th time."""

    def __init__(self, hook: str, call: int):
        super().__init__()
        self._calls_to_go = call
        setattr(self, hook, self._raise)

    def _raise(self, *args: Any, **kwargs: Any) -> None:
        self._calls_to_go -= 1
        if self._calls_to_go == 0:
            raise InterruptionError("Broken")


class RaisesWhenReading(Raises):
    batch_hooks = "log"


class RaisesWhenShowing(Raises):
    batch_hooks = "show"


class RaisesWhereItWants(Raises):
    def wants_batch(self, step: int) -> bool:
        return step % 5 == 4


# The callback, and after how many steps its error comes, in groups of an epoch.
RAISING = {
    "on_train_begin": (Raises, "on_train_begin", 1, 0),
    "on_epoch_begin": (Raises, "on_epoch_begin", 2, 13),
    "on_train_batch_begin": (Raises, "on_train_batch_begin", 4, 3),
    "on_train_batch_end": (Raises, "on_train_batch_end", 4, 4),
    "a wanted batch": (RaisesWhereItWants, "on_train_batch_end", 2, 10),
    "a batch read afterwards": (RaisesWhenReading, "on_train_batch_end", 4, 13),
    "a batch shown": (RaisesWhenShowing, "on_train_batch_end", 1, 13),
    "on_test_batch_end": (Raises, "on_test_batch_end", 2, 13),
    "on_test_end": (Raises, "on_test_end", 1, 13),
    "on_epoch_end": (Raises, "on_epoch_end", 1, 13),
    "on_train_end": (Raises, "on_train_end", 1, 26),
}


@pytest.mark.parametrize(("make", "hook", "call", "steps"), **each(RAISING))
def test_the_steps_before_an_error_of_a_callback_are_counted(make, hook, call, steps):
    twins = fresh()
    before = twins.trainer.step
    with pytest.raises(InterruptionError):
        twins.trainer.fit(
            numbered(13),
            epochs=2,
            verbose=0,
            validation_data=numbered(4),
            callbacks=[make(hook, call)],
        )
    assert int(twins.ours.optimizer.iterations) == steps
    assert twins.trainer.step - before == steps
    if steps:
        twins.theirs.fit(numbered(13).repeat().take(steps), shuffle=False, verbose=0)
    ours, theirs = weights_of(twins.ours), weights_of(twins.theirs)
    assert_same(ours, theirs, "weights")
