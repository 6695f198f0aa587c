"""The progress bar: what it prints where, and how seldom it asks for values."""

import contextlib
import itertools
import re
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tqdm.utils import disp_len

from tests.helpers.comparisons import assert_same
from tests.helpers.terminals import Terminal, rows_of_screen, written_to_terminal
from trainer import CustomTrainer
from trainer.callbacks import ProgressBar, progress_bar
from trainer.callbacks.bar_row import BarRow, printing_above

ROWS = np.random.default_rng(0).random((40, 4), dtype=np.float32)
TARGETS = ROWS.sum(axis=1)
VALIDATION = (ROWS[:16], TARGETS[:16])


@pytest.fixture
def trainer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return CustomTrainer(model)


def fit(trainer, **arguments):
    return trainer.fit(ROWS, TARGETS, **{"batch_size": 8, "epochs": 2, **arguments})


def printed(capfd):
    return capfd.readouterr().out.removesuffix("\n").split("\n")


def test_silent(trainer, capfd):
    fit(trainer, verbose=0, validation_data=VALIDATION)
    trainer.evaluate(ROWS, TARGETS, verbose=0)
    trainer.predict(ROWS, verbose=0)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("verbose", [2, "auto"])
def test_one_line_an_epoch_where_output_goes_to_a_file(trainer, capfd, verbose):
    history = fit(trainer, verbose=verbose, validation_data=VALIDATION).history
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"Epoch 2/2 - 5 steps - \d+\.\ds - loss: \S+ - mae: \S+ - val_loss: \S+ - val_mae: \S+",
        lines[1],
    )
    for key, values in history.items():
        assert f"{key}: {values[1]:.4g}" in lines[1]


def test_a_bar_an_epoch(trainer, capfd):
    history = fit(trainer, verbose=1, validation_data=VALIDATION).history
    bars = [line.split("\r")[-1] for line in printed(capfd)]
    assert len(bars) == 2
    for epoch, bar in enumerate(bars):
        assert bar.startswith(f"Epoch {epoch + 1}/2: 100%")
        assert "5/5" in bar
        assert "step/s" in bar
        for key, values in history.items():
            assert f"{key}={values[epoch]:.4g}" in bar


def test_evaluate_and_predict_show_progress_likewise(trainer, capfd):
    logs = trainer.evaluate(ROWS, TARGETS, batch_size=8, verbose=1, return_dict=True)
    trainer.predict(ROWS, batch_size=8, verbose=1)
    evaluate, predict = (line.split("\r")[-1] for line in printed(capfd))
    assert evaluate.startswith("Evaluate: 100%")
    assert f"loss={logs['loss']:.4g}" in evaluate
    assert predict.startswith("Predict: 100%")
    assert "5/5" in predict
    trainer.evaluate(ROWS, TARGETS, batch_size=8, verbose=2)
    assert re.fullmatch(
        r"Evaluate - 5 steps - \d+\.\ds - loss: \S+ - mae: \S+\n", capfd.readouterr().out
    )


def test_data_of_unknown_length_have_a_total_from_the_second_epoch(trainer, capfd):
    data = tf.data.Dataset.from_tensor_slices((ROWS, TARGETS)).batch(8).filter(lambda *_: True)
    trainer.fit(data, epochs=2, verbose=1)
    first, second = (line.split("\r")[-1] for line in printed(capfd))
    assert "5 steps [" in first
    assert "5/5" in second


@pytest.mark.parametrize("group", [1, 2])
def test_an_epoch_ended_early_shows_the_steps_it_had(trainer, capfd, group):
    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    trainer.model.steps_per_execution = group
    fit(trainer, verbose=2, callbacks=[Stops()])
    assert "2 steps" in capfd.readouterr().out


def test_a_progress_callback_of_the_user_takes_its_place(trainer, capfd):
    class TqdmCallback(keras.callbacks.Callback):
        __module__ = "tqdm.keras"

    fit(trainer, verbose=1, callbacks=[keras.callbacks.ProgbarLogger()])
    assert "Epoch 1/2\n" in capfd.readouterr().out
    fit(trainer, verbose=1, callbacks=[TqdmCallback()])
    assert capfd.readouterr().out == ""
    fit(trainer, verbose=2, callbacks=[ProgressBar()])
    assert len(capfd.readouterr().out.splitlines()) == 2


def test_it_asks_for_values_no_oftener_than_it_draws(trainer, monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 0.03))
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(clock))
    drawn = []
    draw = ProgressBar.on_train_batch_end
    monkeypatch.setattr(
        ProgressBar,
        "on_train_batch_end",
        lambda self, batch, logs: drawn.append(batch) or draw(self, batch, logs),
    )
    acts = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    fit(trainer, verbose=1, epochs=1, batch_size=1, callbacks=[acts])
    assert 5 <= len(drawn) <= 12


def test_an_error_leaves_no_open_bar(trainer, capfd):
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        fit(trainer, verbose=1, callbacks=[Breaks()])
    assert capfd.readouterr().out.endswith("\n")


# On a terminal


@contextlib.contextmanager
def terminal(columns=120, seconds_between_draws=0):
    """Makes standard output a terminal, on which every group of steps is drawn."""
    shown = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        patch.setattr(sys, "stderr", shown)
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(progress_bar, "_SECONDS_BETWEEN_DRAWS", seconds_between_draws)
        yield shown


class Clock(keras.callbacks.Callback):
    """A step of training takes a second, one of validation a thousand."""

    now = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.now += 1

    def on_test_batch_end(self, batch, logs=None):
        self.now += 1000

    def on_epoch_end(self, epoch, logs=None):
        self.now += 1000


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: clock.now)
    return clock


def test_training_stands_at_its_end_while_validation_goes_on(trainer, clock):
    with terminal() as shown:
        fit(trainer, verbose=1, validation_data=VALIDATION, callbacks=[clock])
    for epoch in (1, 2):
        rows = [row for row in shown.rows if row.startswith(f"Epoch {epoch}/2")]
        validating = [row for row in rows if "validating" in row]
        assert [row.rsplit(" ", 1)[1] for row in validating] == ["0/2", "1/2", "2/2"]
        ended = rows[rows.index(validating[0]) :]
        assert len(ended) == 5  # then without a note, and with the results
        for row in ended:
            assert row.startswith(f"Epoch {epoch}/2: 100%|█")
            # The fifth step ended four seconds after the first one began.
            assert "| 5/5 [00:04<00:00,  1.25step/s, loss=" in row
        assert "val_loss=" in ended[-1]


def test_the_last_step_is_drawn_however_soon_it_comes(trainer, clock):
    seen = []
    with terminal(seconds_between_draws=1e9) as shown:
        looks = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(shown.rows[-1])
        )
        fit(trainer, verbose=1, callbacks=[clock, looks])
    assert [row[:15] for row in seen] == ["Epoch 1/2: 100%", "Epoch 2/2: 100%"]


def test_a_line_has_the_time_of_the_steps(trainer, capfd, clock):
    fit(trainer, verbose=2, validation_data=VALIDATION, callbacks=[clock])
    assert [line[:26] for line in printed(capfd)] == [
        "Epoch 1/2 - 5 steps - 4.0s",
        "Epoch 2/2 - 5 steps - 4.0s",
    ]


def test_a_validation_of_unknown_length_has_a_total_from_the_second_on(trainer):
    data = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(8).filter(lambda *_: True)
    with terminal() as shown:
        fit(trainer, verbose=1, validation_data=data)
    notes = re.findall(r"(?<=validating )\S+", shown.getvalue())
    assert notes[0] == "0"
    assert "2" in notes
    assert notes[-1] == "2/2"


LOGS = {
    "short": ["loss=0.7868", "mae=0.5844"],
    "many": ["loss=0.7868", *(f"metric_{number}=0.5844" for number in range(30))],
    "long": ["loss=0.7868", f"a_{'very_' * 30}long_name=0.5", "mae=0.5844"],
    "wide": ["loss=0.7868", "\u7cbe\u5ea6=0.5844", "\u635f\u5931=0.5844"],
    "none": [],
}


def row_drawn(columns, total, items, note):
    with terminal(columns) as shown:
        row = BarRow("Epoch 10/100", total)
        row.items, row.note, row.seconds, row.has_ended = items, note, 62.0, bool(note)
        row.draw(25)
        drawn = shown.rows[-1].rstrip()
        row.close()
    return drawn


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("items", LOGS.values(), ids=LOGS)
def test_a_row_fits_its_terminal(columns, items):
    for total, note in itertools.product([30, 1563, None], ["", " validating 24/100"]):
        drawn = row_drawn(columns, total, items, note)
        assert disp_len(drawn) < columns
        assert drawn.endswith(note)
        if total and (columns > 40 or not note):
            assert len(re.search(r"\|(.*?)\|", drawn)[1]) >= 10
        if columns > 40:
            assert not items or "loss=0.7868" in drawn
        if columns == 120:
            assert "[01:02" in drawn
            assert "step/s" in drawn or "s/step" in drawn
            assert note or items is LOGS["many"] or "".join(items[-1:]) in drawn


def test_a_finished_row_has_all_the_logs(trainer):
    with terminal(60) as shown:
        history = fit(trainer, verbose=1, epochs=1, validation_data=VALIDATION).history
    assert all(f"{key}={values[0]:.4g}" in shown.rows[-2] for key, values in history.items())


class Prints(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            print("a", "line")
        if batch == 3:
            print("a line", end="")

    def on_test_batch_end(self, batch, logs=None):
        print("validates")
        print("two", "lines", sep="\n", file=sys.stderr)

    def on_epoch_end(self, epoch, logs=None):
        print("ends")


def test_what_is_printed_comes_above_the_bar(trainer):
    with terminal() as shown:
        fit(trainer, verbose=1, epochs=1, validation_data=VALIDATION, callbacks=[Prints()])
        *lines, bar = shown.screen
        validates = ["validates", "two", "lines"]
        assert lines == ["a line", "a line", *validates, *validates, "ends"]
        assert bar.startswith("Epoch 1: 100%|")
        print("after")
        assert shown.screen[-1] == "after"
    assert "write" not in vars(shown)


def test_a_bar_within_a_bar_has_a_row_of_its_own(trainer):
    other = CustomTrainer(keras.models.clone_model(trainer.model))
    other.model.compile("sgd", "mse")

    class Evaluates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                other.evaluate(ROWS, TARGETS, verbose=1, callbacks=[Prints()])
                self.model.evaluate(ROWS, TARGETS, verbose=1)

    with terminal() as shown:
        fit(trainer, verbose=1, epochs=1, callbacks=[Evaluates(), Prints()])
    before, *lines, evaluated, by_keras, after, end, bar = shown.screen
    assert (before, after, end) == ("a line", "a line", "ends")
    assert lines == ["validates", "two", "lines"] * 2
    assert evaluated.startswith("Evaluate: 100%|")
    assert "2/2" in by_keras
    assert bar.startswith("Epoch 1: 100%|")
    assert "5/5 [" in bar


def test_bars_of_two_threads_have_a_row_each():
    def draw():
        row = BarRow("second", 2)
        with printing_above(row):
            places.append(row.pos)
        row.close()

    places = []
    with terminal() as shown:
        row = BarRow("first", 2)
        with printing_above(row):
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
            assert "write" in vars(shown)
        row.close()
    assert [row.pos, *places] == [0, 1]
    assert "write" not in vars(shown)


def test_an_error_gives_the_stream_back(trainer):
    def breaks(batch, logs):
        raise RuntimeError("broken")

    acts = keras.callbacks.LambdaCallback(on_train_batch_end=breaks)
    with terminal() as shown, pytest.raises(RuntimeError):
        fit(trainer, verbose=1, callbacks=[acts])
    assert "write" not in vars(shown)


def test_a_bar_changes_nothing_of_the_training():
    results = []
    for verbose in (0, 1):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"])
        trainer = CustomTrainer(model, seed=1)
        with terminal():
            history = fit(trainer, verbose=verbose, validation_data=VALIDATION).history
        results.append((history, model.get_weights()))
    assert_same(*results)


def test_auto_draws_a_bar_on_a_terminal():
    *lines, bar = rows_of_screen(written_to_terminal(fit_with_defaults, columns=80))
    assert lines == ["batch 0", "batch 1"]
    assert bar.startswith("Epoch 1: 100%|")
    assert "| 2/2 [" in bar
    assert "val_loss=" in bar


def fit_with_defaults():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    prints = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: print("batch", batch)
    )
    data = np.ones((8, 4)), np.ones(8)
    CustomTrainer(model).fit(*data, batch_size=4, validation_data=data, callbacks=[prints])
