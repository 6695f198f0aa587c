"""The progress bar: what it prints where, and how seldom it asks for values."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.terminals import written_to_terminal
from trainer import CustomTrainer
from trainer.callbacks import ProgressBar, progress_bar

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
    assert "5step" in first
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


def test_auto_draws_a_bar_on_a_terminal():
    written = written_to_terminal(fit_with_defaults).rstrip()
    *_, last = written.split("\r")
    assert last.startswith("Epoch 1: 100%|")
    assert "| 2/2 [" in last
    assert "\n" not in written  # so it was one bar, drawn over


def fit_with_defaults():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    CustomTrainer(model).fit(np.ones((8, 4)), np.ones(8), batch_size=4)
