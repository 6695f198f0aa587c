"""The first step that is not finite is undone, recorded, explained, and can be run again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.models import seeded
from tests.helpers.tables import each, names_of
from trainer import CustomTrainer, GANTrainer, NonFiniteError, program
from trainer.callbacks import NaNGuard, Snapshots
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, STEPS = 160, 8, 20
BAD = 13  # the batch with something wrong
X, Y = numbers(ROWS, 4), labels(ROWS, classes=2)
SPOILED = X.copy()
SPOILED[BAD * BATCH + 3, 1] = np.nan
FAR = X.copy()
FAR[BAD * BATCH + 3] = 1e4
FLAT = np.abs(X) + 1
FLAT[BAD * BATCH + 3] = 0


class Root(keras.layers.Layer):
    """Finite where its gradient is not."""

    def call(self, inputs):
        return tf.sqrt(inputs)


def network(*first: keras.layers.Layer) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            *first,
            keras.layers.Dense(8, activation="tanh", name="early"),
            keras.layers.Dropout(0.2),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, name="late"),
        ]
    )


def positive(**how: Any) -> keras.layers.Dense:
    return keras.layers.Dense(4, kernel_initializer="identity", use_bias=False, **how)


def overflow(y_true, y_pred):
    """Is infinite for outputs that are merely large."""
    return tf.reduce_mean(tf.exp(tf.abs(y_pred)), axis=-1)


def trainer(model: Callable[[], keras.Model] = network, **how: Any) -> CustomTrainer:
    defaults = {
        "optimizer": keras.optimizers.SGD(0.01, momentum=0.9),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "jit_compile": False,
        "seed": 1,
    }
    return CustomTrainer(seeded(model), **{**defaults, **how})


def linear() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="outputs")])


def rooted() -> keras.Model:
    return network(positive(name="base"), Root(name="root"))


FAILURES = {
    "a bad row": (trainer, SPOILED, "early (Dense)", "late/bias", "in row 3"),
    "overflow in the loss": (
        lambda **how: trainer(linear, loss=overflow, **how),
        FAR,
        None,
        "outputs/bias",
        "loss is inf",
    ),
    "an exploding gradient": (
        lambda **how: trainer(rooted, **how),
        FLAT,
        None,
        "base/kernel, one of 1",
        "a gradient spoils sequential/base/kernel",
    ),
}
GIVEN: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "arrays": lambda x: {"x": x, "y": Y, "batch_size": BATCH, "shuffle": False},
    "tf.data": lambda x: {"x": tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH)},
    "a generator": lambda x: {
        "x": ((x[row : row + BATCH], Y[row : row + BATCH]) for row in range(0, ROWS, BATCH))
    },
}


@pytest.fixture(autouse=True)
def groups_from_the_first_step_on(monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)


def failure_of(made: CustomTrainer, data: dict[str, Any], directory: Any) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        made.fit(**data, verbose=0, callbacks=[NaNGuard(directory)])
    return caught.value


def state_of(made: CustomTrainer) -> dict[str, np.ndarray]:
    return values(training_variables(made))


WAYS = {"a graph": {}, "XLA": {"jit_compile": True}, "eager steps": {"run_eagerly": True}}
CASES = {", ".join(case): case for case in itertools.product(FAILURES, GIVEN, WAYS)}
DEFAULT = (  # each failure, each kind of data and each way but XLA once at least
    *("a bad row, tf.data, a graph", "overflow in the loss, arrays, eager steps"),
    "an exploding gradient, a generator, a graph",
)


@pytest.mark.parametrize(("failure", "given", "way"), **each(CASES, DEFAULT))
def test_it_is_told_and_can_be_run_again(tmp_path, failure, given, way):
    how = WAYS[way]
    make, x, layer, variable, more = FAILURES[failure]
    made = make(**how)
    error = failure_of(made, GIVEN[given](x), tmp_path)
    message = str(error)
    assert message.startswith(f"Step {BAD}, counted from 0, is not finite: ")
    first_layer = "the first layer whose output is not finite is "
    assert (first_layer + str(layer) in message) == (layer is not None)
    assert (first_layer in message) == (layer is not None)
    gradient = "the first variable, coming from the loss, whose gradient is not finite is "
    assert gradient in message
    assert variable in message
    assert more in message.replace("loss is nan; part 0", "part 0")
    assert error.path == tmp_path / f"step-{BAD}"
    assert made.step == BAD
    # The trainer is as after the steps before.
    before = make(**how)
    given_before = {**GIVEN[given](x), "steps_per_epoch": BAD}
    before.fit(**given_before, verbose=0)
    found, expected = state_of(made), state_of(before)
    assert all(np.isfinite(value).all() for value in found.values())
    if "jit_compile" not in how:  # XLA may compute a shorter group with other bits
        assert_same(found, expected)
    # And so is another one, where the step fails again.
    another = make(**how)
    logs = another.replay(error.path)
    after = state_of(another)
    if failure != "an exploding gradient":
        assert not np.isfinite(logs["loss"])
    else:
        assert np.isfinite(logs["loss"])
    trained = [name for name in after if not name.startswith("metrics/")]
    assert_same({n: after[n] for n in trained}, {n: found[n] for n in trained})
    assert another.step == BAD


class AppliesGradientsAlone(CustomTrainer):
    """Leaves it to the optimizer which variables they are of."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.model(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.model.trainable_variables))
        return {"loss": loss}


def test_gradients_applied_without_their_variables_are_named(tmp_path):
    made = AppliesGradientsAlone(seeded(linear), optimizer="sgd", loss=overflow, jit_compile=False)
    made.optimizer.build(made.model.trainable_variables)
    error = failure_of(made, GIVEN["arrays"](FAR), tmp_path)
    assert "whose gradient is not finite is sequential/outputs/bias, one of 2" in str(error)
    assert "AttributeError" not in str(error)


def test_replay_runs_the_step_of_the_trainer_eagerly(tmp_path):
    seen = []

    class Looks(CustomTrainer):
        def train_step(self, data):
            if tf.executing_eagerly():
                seen.append(data)
            return super().train_step(data)

    arguments = {"optimizer": "sgd", "loss": overflow, "jit_compile": False}
    made = Looks(seeded(linear), **arguments)
    error = failure_of(made, GIVEN["tf.data"](FAR), tmp_path)
    seen.clear()
    assert np.isinf(made.replay(error.path)["loss"])
    ((x, y),) = seen
    assert_same((x.numpy(), y.numpy()), (FAR[104:112], Y[104:112]))
    made.model.layers[0].kernel.assign([[0.0, 0.0]] * 4)
    assert np.isinf(made.replay(error.path)["loss"])  # weights came back, too


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        pytest.param("arrays", 2, marks=pytest.mark.exhaustive),
        ("tf.data", 2),
        pytest.param("a generator", 1, marks=pytest.mark.exhaustive),
    ],
)
def test_steps_can_be_left_out(tmp_path, given, epochs):
    skipping, without = trainer(), trainer()
    with pytest.warns(UserWarning, match=rf"Step {BAD}, .* It is left out\.") as warned:
        history = skipping.fit(
            **GIVEN[given](SPOILED),
            epochs=epochs,
            verbose=0,
            callbacks=[NaNGuard(tmp_path, skips=epochs)],
        )
    assert len([one for one in warned if "is left out" in str(one.message)]) == epochs
    rows = np.delete(np.arange(ROWS), np.s_[BAD * BATCH : (BAD + 1) * BATCH])
    expected = without.fit(
        X[rows], Y[rows], batch_size=BATCH, shuffle=False, epochs=epochs, verbose=0
    )
    assert_same(history.history, expected.history)
    assert_same(state_of(skipping), state_of(without))
    assert skipping.step == without.step == epochs * (STEPS - 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"step-{BAD + epoch * (STEPS - 1)}" for epoch in range(epochs)
    ]


def test_a_gradient_that_an_optimizer_only_adds_up_is_left_out_at_its_step(tmp_path):
    def adding_up():
        optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
        return trainer(rooted, optimizer=optimizer)

    def fit(made, x, y, *callbacks):
        made.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
        return state_of(made)

    rows = np.delete(np.arange(ROWS), np.s_[BAD * BATCH : (BAD + 1) * BATCH])
    with pytest.warns(UserWarning, match=rf"Step {BAD}, .* a gradient spoils .*accumulator"):
        found = fit(adding_up(), FLAT, Y, NaNGuard(tmp_path, skips=1))
    assert_same(found, fit(adding_up(), FLAT[rows], Y[rows]))


@pytest.mark.exhaustive
def test_how_many_were_left_out_is_known_after_a_restart(tmp_path):
    twice = SPOILED.copy()
    twice[(BAD + 2) * BATCH] = np.inf
    data = {**GIVEN["arrays"](twice), "verbose": 0}
    saving = Snapshots(tmp_path / "snapshots", max_seconds=1e-9)

    def until_one_was_left_out() -> None:
        steps = 0
        while steps <= BAD:  # each call ends after a step
            made = trainer()
            made.fit(**data, callbacks=[OneByOne(), NaNGuard(tmp_path, skips=1), saving])
            steps = made.step

    with pytest.warns(UserWarning, match=rf"Step {BAD}, .* left out"):
        until_one_was_left_out()
    with pytest.raises(NonFiniteError, match=rf"Step {BAD + 1}, "):
        trainer().fit(
            **data, callbacks=[NaNGuard(tmp_path, skips=1), Snapshots(tmp_path / "snapshots")]
        )


class OneByOne(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


def test_one_more_than_may_be_left_out_ends_the_training(tmp_path):
    twice = SPOILED.copy()
    twice[(BAD + 2) * BATCH] = np.inf
    made = trainer()
    with (
        pytest.warns(UserWarning, match=rf"Step {BAD}, .* left out"),
        pytest.raises(NonFiniteError, match=rf"Step {BAD + 1}, "),
    ):
        made.fit(**GIVEN["arrays"](twice), verbose=0, callbacks=[NaNGuard(tmp_path, skips=1)])
    assert made.step == BAD + 1


@pytest.mark.parametrize("given", names_of(GIVEN, ("tf.data",)))
def test_it_changes_nothing_of_a_training_that_is_well(tmp_path, given):
    guarded, plain = trainer(), trainer()
    data = {**GIVEN[given](X), "validation_data": (X[:20], Y[:20])}
    history = guarded.fit(**data, verbose=0, callbacks=[NaNGuard(tmp_path)])
    expected = plain.fit(**data | GIVEN[given](X), verbose=0)
    assert_same(history.history, expected.history)
    assert_same(state_of(guarded), state_of(plain))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_scale_that_is_too_large_is_no_failure(tmp_path):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**127
    )
    made = trainer(optimizer=optimizer)
    made.fit(**GIVEN["arrays"](X), verbose=0, callbacks=[NaNGuard(tmp_path)])
    assert float(optimizer.dynamic_scale) < 2.0**127  # it was too large


@pytest.mark.exhaustive
def test_a_gan_is_guarded_too(tmp_path):
    images = np.tanh(numbers(64, *gans.IMAGE))
    gan = GANTrainer(
        gans.generator(), gans.discriminator(), latent_dim=gans.LATENT, label_noise=0.05, seed=3
    )
    gan.fit(images, batch_size=8, verbose=0, callbacks=[NaNGuard(tmp_path)])
    kernel = gan.discriminator.trainable_weights[0]
    kernel.assign(tf.fill(kernel.shape, 3e38))
    with pytest.raises(NonFiniteError, match=r"Step 8, .* d_loss is .* the first variable, coming"):
        gan.fit(images, batch_size=8, verbose=0, callbacks=[NaNGuard(tmp_path)])


def test_ragged_and_sparse_batches_are_recorded(tmp_path):
    def step(self, data):
        ragged, sparse = data
        total = tf.reduce_sum(ragged) + tf.sparse.reduce_sum(sparse)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.model.layers[0].kernel) * tf.math.log(total)
        self.minimize(loss, tape)
        return {"loss": loss}

    kind = type("OfOddBatches", (CustomTrainer,), {"train_step": step})
    made = kind(seeded(linear), optimizer="sgd", loss="mse", jit_compile=False)
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]] * 3 + [[-9.0], [1.0]])
    sparse = tf.sparse.from_dense(tf.ones([8, 2]))
    data = tf.data.Dataset.from_tensor_slices((ragged, sparse)).batch(2)
    with pytest.raises(NonFiniteError, match="Step 3, ") as caught:
        made.fit(data, verbose=0, callbacks=[NaNGuard(tmp_path)])
    assert np.isnan(made.replay(caught.value.path)["loss"])


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    made = trainer()
    with pytest.raises(ValueError, match="cannot be written to"):
        made.fit(**GIVEN["arrays"](X), callbacks=[NaNGuard(tmp_path / "file")])
    assert made.step == 0


@pytest.mark.parametrize("skips", [-1, 0.5])
def test_a_wrong_number_of_skips(tmp_path, skips):
    with pytest.raises(ValueError, match=f"skips is {skips}: expected"):
        NaNGuard(tmp_path, skips=skips)


def test_only_a_record_can_be_replayed(tmp_path):
    made = trainer()
    made.save_snapshot(tmp_path / "snapshot")
    with pytest.raises(ValueError, match=r"has no batch: give a folder that NaNGuard wrote"):
        made.replay(tmp_path / "snapshot")
