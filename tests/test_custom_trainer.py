"""What the trainer itself decides: compiling, counters, seeds, metrics, several networks."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import CustomTrainer

ROWS = np.random.default_rng(0).random((40, 4), dtype=np.float32)
TARGETS = ROWS.sum(axis=1)


def regressor():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def compiled(**arguments):
    model = regressor()
    model.compile(**{"optimizer": "sgd", "loss": "mse", **arguments})
    return model


def fit(trainer, **arguments):
    return trainer.fit(ROWS, TARGETS, **{"batch_size": 8, "verbose": 0, **arguments})


class TestCompiling:
    def test_a_compiled_model_keeps_what_it_was_compiled_with(self):
        model = compiled(metrics=["mae"])
        optimizer, loss = model.optimizer, model.loss
        trainer = CustomTrainer(model)
        assert trainer.optimizer is optimizer
        assert model.loss is loss
        assert set(fit(trainer).history) == {"loss", "mae"}

    def test_arguments_compile_an_uncompiled_model(self):
        trainer = CustomTrainer(
            regressor(),
            optimizer=keras.optimizers.SGD(0.25),
            loss="mae",
            metrics=["mse"],
            weighted_metrics=["mse"],
            loss_weights=[2.0],
        )
        assert float(trainer.optimizer.learning_rate) == 0.25
        assert set(fit(trainer).history) == {"loss", "mse", "weighted_mse"}

    def test_arguments_replace_part_of_an_earlier_compile(self):
        model = compiled(loss_weights=[3.0])
        optimizer = model.optimizer
        trainer = CustomTrainer(model, metrics=["mae"])
        assert trainer.optimizer is optimizer
        expected = compiled(loss_weights=[3.0], metrics=["mae"])
        expected = expected.fit(ROWS, TARGETS, batch_size=8, verbose=0, shuffle=False)
        assert fit(trainer, shuffle=False).history == expected.history

    def test_a_trainer_says_once_that_another_one_compiled_its_model(self):
        model = compiled()
        first = CustomTrainer(model)
        second = CustomTrainer(model, optimizer=keras.optimizers.SGD(0.5), loss="mae")
        fit(second)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                first.evaluate(ROWS, TARGETS, verbose=0)
            fit(second)
            fit(first)
        told = [w for w in caught if "Another trainer has compiled" in str(w.message)]
        assert [warning.filename for warning in told] == [__file__]
        assert first.optimizer is second.optimizer
        CustomTrainer(model, loss="mse")
        with pytest.warns(UserWarning, match="Another trainer has compiled the model"):
            first.train_on_batch(ROWS, TARGETS)

    @pytest.mark.filterwarnings("error:Another trainer")
    def test_no_trainer_says_so_where_nobody_else_compiled_its_model(self):
        model = compiled()
        first = CustomTrainer(model)
        fit(first)
        model.compile("sgd", "mae")
        fit(first)
        second = CustomTrainer(model, run_eagerly=False)
        for trainer in (first, second):
            fit(trainer)
        third = CustomTrainer(model, optimizer="adam", loss="mse")
        fit(third)
        fit(CustomTrainer(model))
        model.compile("sgd", "mae")  # the last word is not the third trainer's
        for trainer in (first, second, third):
            fit(trainer)
        first = CustomTrainer(regressor())
        fit(CustomTrainer(first.model, optimizer="adam", loss="mse"))
        fit(first)  # which had no word of its own

    def test_a_new_loss_does_not_inherit_the_weights_of_the_old(self):
        trainer = CustomTrainer(compiled(loss_weights=[3.0]), loss="mae")
        expected = compiled(loss="mae").fit(ROWS, TARGETS, batch_size=8, verbose=0, shuffle=False)
        assert fit(trainer, shuffle=False).history == expected.history

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("run_eagerly", True), ("jit_compile", True), ("steps_per_execution", 4)],
    )
    def test_settings_alone_leave_the_compile_as_it_is(self, setting, value):
        model = compiled()
        optimizer = model.optimizer
        CustomTrainer(model, **{setting: value})
        assert getattr(model, setting) == value
        assert model.optimizer is optimizer

    def test_auto_jit_is_worked_out_as_keras_does(self):
        model = compiled(jit_compile=True)
        CustomTrainer(model, jit_compile="auto")
        assert model.jit_compile == compiled(jit_compile="auto").jit_compile

    def test_compiling_again_is_noticed(self):
        model = compiled()
        trainer = CustomTrainer(model)
        assert set(fit(trainer).history) == {"loss"}
        model.compile(keras.optimizers.SGD(0.0), "mae", metrics=["mse"])
        before = model.get_weights()
        assert set(fit(trainer).history) == {"loss", "mse"}
        for weights, weights_before in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weights, weights_before)

    def test_switching_to_eager_is_noticed(self):
        seen = []

        class Looks(CustomTrainer):
            def train_step(self, data):
                seen.append(tf.executing_eagerly())
                return super().train_step(data)

        trainer = Looks(compiled())
        fit(trainer)
        trainer.model.run_eagerly = True
        fit(trainer)
        assert seen[0] is False
        assert seen[-1] is True

    def test_predict_needs_no_compile(self):
        model = regressor()
        np.testing.assert_array_equal(
            CustomTrainer(model).predict(ROWS, verbose=0), model.predict(ROWS, verbose=0)
        )


class TestCounters:
    def test_steps_and_epochs_count_over_all_calls(self):
        trainer = CustomTrainer(compiled())
        assert (trainer.step, trainer.epoch) == (0, 0)
        fit(trainer, epochs=2)
        assert (trainer.step, trainer.epoch) == (10, 2)
        fit(trainer, epochs=1, steps_per_epoch=3)
        assert (trainer.step, trainer.epoch) == (13, 3)
        trainer.train_on_batch(ROWS, TARGETS)
        trainer.evaluate(ROWS, TARGETS, verbose=0)
        trainer.predict(ROWS, verbose=0)
        assert (trainer.step, trainer.epoch) == (14, 3)

    def test_a_callback_sees_the_step_it_is_called_after(self):
        trainer = CustomTrainer(compiled(steps_per_execution=2))
        seen = []
        notes = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append((trainer.step, trainer.epoch))
        )
        fit(trainer, epochs=2, callbacks=[notes])
        assert seen == [(2, 0), (4, 0), (5, 0), (7, 1), (9, 1), (10, 1)]

    def test_initial_epoch_counts_the_epochs_before_it(self):
        trainer = CustomTrainer(compiled())
        fit(trainer, initial_epoch=3, epochs=5)
        assert trainer.epoch == 5


class TestOrder:
    def weights(self, seed, *fits):
        trainer = CustomTrainer(compiled(), seed=seed)
        for arguments in fits:
            fit(trainer, **arguments)
        return trainer.model.get_weights()

    def equal(self, one, other):
        return all(map(np.array_equal, one, other))

    def test_follows_from_seed_and_epoch(self):
        whole = self.weights(7, {"epochs": 4})
        assert self.equal(whole, self.weights(7, {"epochs": 4}))
        assert not self.equal(whole, self.weights(8, {"epochs": 4}))
        assert self.equal(whole, self.weights(7, {"epochs": 2}, {"initial_epoch": 2, "epochs": 4}))
        assert self.equal(whole, self.weights(7, {"epochs": 2}, {"epochs": 2}))

    def test_each_epoch_has_its_own(self):
        seen = []

        class Looks(CustomTrainer):
            def train_step(self, data):
                seen.append(data[1].numpy())
                return super().train_step(data)

        fit(Looks(compiled(), run_eagerly=True, seed=0), epochs=2)
        first, second = np.concatenate(seen[:5]), np.concatenate(seen[5:])
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(np.sort(first), np.sort(second))

    def test_without_a_seed_it_follows_from_set_random_seed(self):
        assert self.equal(self.weights(None, {"epochs": 2}), self.weights(None, {"epochs": 2}))

    def test_asking_for_a_seed_draws_nothing_from_pythons_random(self):
        import random

        state = random.getstate()
        CustomTrainer(compiled_without_seeding())
        assert random.getstate() == state


def compiled_without_seeding():
    import random

    state = random.getstate()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    random.setstate(state)
    return model


class TestMetrics:
    def test_a_trainers_own_metric_is_reset_each_epoch_and_apart_in_validation(self):
        class CountsRows(CustomTrainer):
            def __init__(self, model):
                super().__init__(model)
                self.rows = keras.metrics.Sum(name="rows")

            def train_step(self, data):
                self.rows.update_state(tf.ones_like(data[1]))
                return super().train_step(data)

            def test_step(self, data):
                self.rows.update_state(2 * tf.ones_like(data[1]))
                return super().test_step(data)

        trainer = CountsRows(compiled())
        history = fit(trainer, epochs=2, validation_data=(ROWS[:10], TARGETS[:10])).history
        assert history["rows"] == [40.0, 40.0]
        assert history["val_rows"] == [20.0, 20.0]
        assert trainer.evaluate(ROWS, TARGETS, verbose=0, return_dict=True)["rows"] == 80.0

    def test_a_subclass_may_list_its_metrics_and_need_no_compile(self):
        class Alone(CustomTrainer):
            def __init__(self, model):
                super().__init__(model)
                self._tracker = keras.metrics.Mean(name="error")
                self._sgd = keras.optimizers.SGD(0.1)

            @property
            def metrics(self):
                return [self._tracker]

            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    error = tf.reduce_mean((self.model(x)[:, 0] - y) ** 2)
                self.minimize(error, tape, self.model.trainable_weights, self._sgd)
                self._tracker.update_state(error)
                return {"error": self._tracker.result()}

        history = fit(Alone(regressor()), epochs=3).history["error"]
        assert history[0] > history[1] > history[2] > 0

    def test_evaluate_returns_values_in_the_order_of_the_metrics(self):
        model = compiled(metrics=["mse", "mae"])
        expected = model.evaluate(ROWS, TARGETS, verbose=0)
        assert CustomTrainer(model).evaluate(ROWS, TARGETS, verbose=0) == expected


class TestOverriding:
    def test_compute_loss_of_the_trainer_is_what_is_minimized(self):
        class TwiceTheLoss(CustomTrainer):
            def compute_loss(self, *args, **kwargs):
                return 2 * super().compute_loss(*args, **kwargs)

        twice = TwiceTheLoss(compiled(optimizer=keras.optimizers.SGD(0.05)))
        history = fit(twice, shuffle=False).history
        plain = compiled(optimizer=keras.optimizers.SGD(0.1))
        expected = plain.fit(ROWS, TARGETS, batch_size=8, shuffle=False, verbose=0).history
        np.testing.assert_allclose(history["loss"][0], 2 * expected["loss"][0], rtol=1e-6)
        for weights, others in zip(twice.model.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(weights, others, rtol=1e-6)

    def test_predict_step_decides_what_predict_returns(self):
        class Doubles(CustomTrainer):
            def predict_step(self, data):
                return 2 * super().predict_step(data)

        model = compiled()
        doubled = Doubles(model).predict(ROWS, verbose=0)
        np.testing.assert_array_equal(doubled, 2 * model.predict(ROWS, verbose=0))

    def test_the_trainers_step_comes_before_the_models(self):
        class OwnStep(keras.Sequential):
            def train_step(self, data):
                return {"whose": tf.constant(1.0)}

        class TrainerStep(CustomTrainer):
            def train_step(self, data):
                return {"whose": tf.constant(2.0)}

        model = OwnStep([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        assert fit(CustomTrainer(model)).history == {"whose": [1.0]}
        assert fit(TrainerStep(model)).history == {"whose": [2.0]}

    def test_minimize_works_under_a_tape_that_still_records(self):
        class Inside(CustomTrainer):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape(persistent=True) as tape:
                    y_pred = self.model(x, training=True)
                    loss = self.compute_loss(x, y, y_pred)
                    self.minimize(loss, tape)
                self.track_loss(loss, x)
                return self.compute_metrics(x, y, y_pred)

        inside, plain = Inside(compiled()), CustomTrainer(compiled())
        assert fit(inside, shuffle=False).history == fit(plain, shuffle=False).history

    def test_apply_gradients_takes_the_step_of_the_optimizer(self):
        class Reversed(CustomTrainer):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    y_pred = self.model(x, training=True)
                    loss = -self.compute_loss(x, y, y_pred)
                weights = self.model.trainable_weights
                self.apply_gradients([-gradient for gradient in tape.gradient(loss, weights)])
                self.track_loss(-loss, x)
                return self.compute_metrics(x, y, y_pred)

        turned, plain = Reversed(compiled()), CustomTrainer(compiled())
        assert fit(turned, shuffle=False).history == fit(plain, shuffle=False).history

    def test_a_model_without_trainable_weights_is_told(self):
        model = regressor()
        model.trainable = False
        model.compile("sgd", "mse")
        with pytest.warns(UserWarning, match="no trainable weights: the step changes nothing"):
            fit(CustomTrainer(model))
