"""`Networks`: several networks, and an optimizer for each, as one Keras model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.attached import Attached, variable_id
from trainer.hints import did_you_mean
from trainer.progress import Progress
from trainer.seeds import checked_seed, seed_of_random_state
from trainer.shared_layers import (
    check_sharing,
    inner_first,
    shared_layers,
    unmark,
    with_sharing,
)


@keras.saving.register_keras_serializable(package="trainer")
class Networks(keras.Model):
    """Several networks as one model, so that a file, a callback or a trainer holds them all.

    Saved as a `.keras` file, or as weights, it keeps what training changes: the networks' weights
    and random seeds, the optimizers' variables, its own seed generator and how far training came.

    ```python
    model = Networks({"generator": generator, "discriminator": discriminator}, seed=1)
    model.compile({"generator": keras.optimizers.Adam(4e-4), "discriminator": "adam"})
    model.generator.summary()
    model.generator_optimizer.learning_rate = 1e-4
    ```

    Each network is an attribute by its name, as long as a Keras model has no other attribute of
    that name, and so is its optimizer as `<network>_optimizer`. A shorter form is that of the first
    network whose name begins so: `g_optimizer`, `d_optimizer`.

    Called, it calls the first network. Networks may share layers of `keras.Sequential` and
    functional models, and one may be part of another.

    Args:
        networks: the networks by name, each with its weights made.
        seed: seed of the draws, 0 or more; by default it follows from the state of Python's
            `random`.
        settings: what a trainer wants to find again when the model is loaded: numbers, strings and
            configurations of Keras objects by name.
        name: the model's name.

    Attributes:
        networks: the networks by name.
        optimizers: the optimizers by the name of their network.
        seed: the seed.
        settings: the settings.
        seed_generator: what a training step draws from.
        progress: steps and epochs trained; a trainer counts them here.

    Raises:
        ValueError: there is no network, one has no weights yet, or some share layers in a way that
            a file cannot keep, as by attributes of classes of their own.
    """

    def __init__(
        self,
        networks: dict[str, keras.Model],
        *,
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
        name: str = "networks",
        **keywords: Any,
    ):
        super().__init__(name=name, **keywords)
        _check_networks(networks)
        self._attached = Attached(self._known_ids)
        self.networks = dict(networks)
        self.optimizers = {}
        self.seed = seed_of_random_state() if seed is None else checked_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.settings = dict(settings or {})
        self.progress = Progress()
        self.built = True

    def compile(
        self,
        optimizer: dict[str, Any],
        *,
        run_eagerly: bool = False,
        jit_compile: bool | str = "auto",
        steps_per_execution: int = 1,
    ) -> None:
        """Gives each network that is trained its optimizer.

        Args:
            optimizer: by the network's name, an optimizer as `keras.optimizers.get` takes it; each
                is for one network, and a network without one is never trained.
            run_eagerly: as in `keras.Model.compile`.
            jit_compile: as in `keras.Model.compile`.
            steps_per_execution: as in `keras.Model.compile`.

        Raises:
            ValueError: a name is no network's, an optimizer is missing or stands for two networks.
        """
        _check_optimizers(optimizer, self.networks)
        optimizers = {
            name: _made(optimizer[name], network)
            for name, network in self.networks.items()
            if name in optimizer
        }
        super().compile(
            None,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        self.optimizers = optimizers

    @property
    def optimizer(self) -> keras.Optimizer | SeveralOptimizers | None:
        """The optimizer; with several, what callbacks that look for one learning rate run into."""
        optimizers = list(self.optimizers.values())
        if len(optimizers) < 2:
            return optimizers[0] if optimizers else None
        return SeveralOptimizers(self.optimizers)

    @optimizer.setter
    def optimizer(self, value: None) -> None:
        if value is not None:
            raise AttributeError(
                "Networks has an optimizer for each network: set them by "
                f"model.compile({_as_dict(self.networks)})."
            )

    def __getattr__(self, name: str) -> Any:
        attributes = vars(self)
        networks, optimizers = attributes.get("networks", {}), attributes.get("optimizers", {})
        if name in networks:
            return networks[name]
        if name in attributes.get("_attached", ()):
            return self._attached.get(name)
        if name.endswith("_optimizer") and not name.startswith("_"):
            prefix = name.removesuffix("_optimizer")
            for network in sorted(optimizers, key=lambda network: network != prefix):
                if network.startswith(prefix):
                    return optimizers[network]
        mend = did_you_mean(name, networks)
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(f"{text}: {mend}" if mend else text)

    def attach(self, name: str, value: Any) -> None:
        """Saves the variables of an object with the networks, and loads them again.

        `GANTrainer` attaches its attributes. A file has their values by name; those of a model that
        shares no layers have their configuration, too, so that it is an attribute of what
        `keras.models.load_model` returns. What is attached is not trained or called.

        Args:
            name: the name, by which it is an attribute, too.
            value: a variable, seed generator, optimizer, layer or model, or a list or dict of such.
                Another object takes the place of one that was attached before, and is not saved.

        Raises:
            ValueError: values of this name that were loaded are those of another kind of object.
        """
        self._attached.put(name, value)

    def model_named(self, name: str) -> keras.Model | None:
        """Returns the network or the attached model of a name; `None` if there is neither."""
        found = self.networks.get(name)
        if found is None and name in self._attached:
            found = self._attached.get(name)
        return found if isinstance(found, keras.Model) else None

    def release(self) -> None:
        """Keeps the values of what is attached, for objects of the same names to come."""
        self._attached.release()

    def attached_names(self) -> set[str]:
        """Returns the names of attached objects that have values to save."""
        return self._attached.names()

    @property
    def weights(self) -> list[keras.Variable]:
        """The weights of the networks, then those of attached layers and models."""
        weights = super().weights
        if "_attached" not in vars(self):
            return weights
        return [*weights, *self._attached.weights()]

    @property
    def inputs(self) -> list[keras.KerasTensor] | None:
        """The inputs of the first network, `None` where they are not known."""
        return getattr(self._first, "inputs", None)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the output of the first network."""
        return self._first(inputs)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        shared, ordered = shared_layers(self.networks), inner_first(self.networks)
        networks = {
            name: keras.saving.serialize_keras_object(self.networks[name]) for name in ordered
        }
        for name, layers in shared.items():
            unmark(networks[name], self.networks[name], layers)
        config = {
            "networks": networks,
            "seed": self.seed,
            "settings": dict(self.settings),
            "name": self.name,
        }
        further = {
            "attached": self._attached.configs(),
            "shared": shared,
            "order": list(self.networks) if ordered != list(self.networks) else [],
        }
        return config | {name: value for name, value in further.items() if value}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Networks:  # noqa: D102
        arguments = dict(config)
        attached, shared = arguments.pop("attached", {}), arguments.pop("shared", {})
        made = {
            name: keras.saving.deserialize_keras_object(network, custom_objects)
            for name, network in arguments.pop("networks").items()
        }
        made = with_sharing(made, shared)
        networks = {name: made[name] for name in arguments.pop("order", made)}
        model = cls(networks, **arguments)
        model._attached.set_configs(attached)
        return model

    def get_compile_config(self) -> dict[str, Any]:  # noqa: D102
        if not self.compiled:
            return {}
        optimizers = {
            name: keras.optimizers.serialize(optimizer)
            for name, optimizer in self.optimizers.items()
        }
        return {
            "optimizer": optimizers,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:  # noqa: D102
        optimizers = {
            name: keras.optimizers.deserialize(optimizer)
            for name, optimizer in config["optimizer"].items()
        }
        self.compile(**{**config, "optimizer": optimizers})

    def save_own_variables(self, store: Any) -> None:  # noqa: D102
        # The weights are the networks' own; their seeds Keras does not save.
        for number, state in enumerate(self._seed_states()):
            store[f"seed_{number}"] = state.numpy()
        store["progress"] = [self.progress.step, self.progress.epoch]
        self._attached.save(store)

    def load_own_variables(self, store: Any) -> None:  # noqa: D102
        there = sum(key.startswith("seed_") for key in store.keys())  # noqa: SIM118
        here = len(self._seed_states())
        if there != here:
            raise ValueError(
                f"The file has the random seeds of {there} places that draw, but the model has "
                f"{here}: build the networks as they were when it was saved, with the same Dropout "
                "and other layers that draw."
            )
        for number, state in enumerate(self._seed_states()):
            state.assign(store[f"seed_{number}"])
        self.progress.step, self.progress.epoch = (int(count) for count in store["progress"])
        self._attached.load(store)

    def _known_ids(self) -> set[int]:
        """Returns the ids of the variables that networks and optimizers save themselves."""
        optimizers = self.optimizers.values()
        of_optimizers = [v for optimizer in optimizers for v in optimizer.variables]
        return {variable_id(variable) for variable in [*self.variables, *of_optimizers]}

    def _seed_states(self) -> list[keras.Variable]:
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    @property
    def _first(self) -> keras.Model:
        return next(iter(self.networks.values()))


class SeveralOptimizers:
    """Stands where Keras looks for one optimizer: what they have in common, and no learning rate.

    Attributes:
        optimizers: the optimizers; Keras's TensorBoard callback logs the learning rate of each.
        variables: the variables of all.
        iterations: how often the first network was updated; Keras takes it for the steps.
        built: whether the variables exist.
    """

    built = True

    def __init__(self, by_name: dict[str, keras.Optimizer]):
        optimizers = list(by_name.values())
        super().__setattr__("optimizers", optimizers)
        super().__setattr__("variables", [v for each in optimizers for v in each.variables])
        super().__setattr__("iterations", optimizers[0].iterations)
        super().__setattr__("_names", list(by_name))

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(self._which(attribute))

    def __setattr__(self, attribute: str, value: Any) -> None:
        raise AttributeError(self._which(attribute))

    def _which(self, attribute: str) -> str:
        names = self.__dict__.get("_names", ["?"])
        return (
            f"The model has an optimizer for each of {', '.join(names)}, so which {attribute} is "
            f"meant? Take model.optimizers[{names[0]!r}], or bind a callback to one network: "
            f"{bound_form(names[0], 'callback')}."
        )


def bound_form(network: str, callback: str) -> str:
    """Returns the code that binds a callback to one network."""
    return f"trainer.callbacks.ForNetwork({network!r}, {callback})"


def missing_optimizer(network: str) -> str:
    """Returns the sentence for a network that is to be trained and has no optimizer."""
    return (
        f"The network {network!r} has no optimizer: give CustomTrainer "
        f"optimizer={{{network!r}: keras.optimizers.Adam(), ...}}, one for each to train."
    )


def trained_networks(model: keras.Model) -> Iterator[tuple[keras.Model, keras.Optimizer]]:
    """Yields each network of `model` that has an optimizer, and the optimizer."""
    if isinstance(model, Networks):
        for name, optimizer in model.optimizers.items():
            yield model.networks[name], optimizer
    elif isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        yield model, model.optimizer


def learning_rates(model: keras.Model) -> list[keras.Variable]:
    """Returns the learning rates of the optimizers of `model`, those that no schedule sets."""
    rates = [
        single.learning_rate
        for _, optimizer in trained_networks(model)
        for single in single_optimizers(optimizer)
    ]
    return [rate for rate in rates if isinstance(rate, keras.Variable)]


def single_optimizers(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """Returns the optimizers that change the weights: those inside of a wrapper, or itself.

    The wrappers of Keras are `LossScaleOptimizer` and, from 3.15 on, `MultiOptimizer`.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "optimizers", [inner]))


def build_optimizers(model: keras.Model) -> None:
    """Makes the variables of optimizers whose network has its weights, as Keras's `fit` does.

    Under a strategy, or with steps that run eagerly, Keras makes them eagerly. Else the first step
    makes them while it is traced, which leaves out what an optimizer then assigns to them.
    """
    is_traced = not (model.run_eagerly or tf.distribute.has_strategy())
    for network, optimizer in trained_networks(model):
        if network.built and not optimizer.built:
            with _as_made() if is_traced else contextlib.nullcontext():
                build_optimizer(optimizer, network.trainable_variables)


@contextlib.contextmanager
def _as_made() -> Iterator[None]:
    """Gives the variables that are made meanwhile their initial values again."""
    made: list[tuple[tf.Variable, tf.Tensor]] = []

    def make(next_creator: Callable[..., tf.Variable], **settings: Any) -> tf.Variable:
        variable = next_creator(**settings)
        made.append((variable, variable.read_value()))
        return variable

    with tf.variable_creator_scope(make):
        yield
    for variable, value in made:
        variable.assign(value)


def build_optimizer(optimizer: keras.Optimizer, variables: list[keras.Variable]) -> None:
    """Makes the variables of an optimizer that has none yet, with their names in a step."""
    if optimizer.built:
        return
    if hasattr(optimizer, "optimizers"):  # which have names
        optimizer.build(variables)
        return
    with keras.name_scope(optimizer.name, caller=optimizer):
        optimizer.build(variables)


def _made(identifier: Any, network: keras.Model) -> keras.Optimizer:
    """Returns the optimizer with its variables made, so that a file of them can be loaded."""
    optimizer = keras.optimizers.get(identifier)
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if network.dtype_policy.name == "mixed_float16" and not scales:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if not optimizer.built:
        optimizer.build(network.trainable_variables)
    return optimizer


def _check_networks(networks: dict[str, keras.Model]) -> None:
    if not isinstance(networks, dict) or not networks:
        raise ValueError(
            "networks must be a dict of keras models by name, such as "
            f"{{'encoder': encoder, 'decoder': decoder}}, but is {networks!r}."
        )
    for name, network in networks.items():
        if not isinstance(network, keras.Model):
            raise ValueError(
                f"The network {name!r} is of type {type(network).__name__}: expected a keras.Model."
            )
        if not network.built:
            raise ValueError(
                f"The network {name!r} has no weights yet: begin it with keras.Input(shape), or "
                "call it on a batch first."
            )
    check_sharing(networks)


def _check_optimizers(optimizers: dict[str, Any], networks: dict[str, keras.Model]) -> None:
    if not isinstance(optimizers, dict):
        raise ValueError(
            "Several networks need an optimizer each, by name: give "
            f"optimizer={_as_dict(networks)}, not {optimizers!r}."
        )
    owners: dict[int, str] = {}
    for name, optimizer in optimizers.items():
        if name not in networks:
            raise ValueError(
                f"There is an optimizer for {name!r}, but the networks are {', '.join(networks)}."
            )
        if optimizer is None:
            raise ValueError(
                f"The optimizer of {name!r} is missing: give one, such as keras.optimizers.Adam()."
            )
        if not isinstance(optimizer, (str, dict)) and id(optimizer) in owners:
            raise ValueError(
                f"{owners[id(optimizer)]} and {name} share one optimizer, which keeps its moments "
                "for the weights of one network: give each its own."
            )
        owners[id(optimizer)] = name


def _as_dict(networks: dict[str, keras.Model]) -> str:
    return "{" + ", ".join(f"{name!r}: keras.optimizers.Adam()" for name in networks) + "}"
