"""A callback for one network of several."""

from __future__ import annotations

import difflib
from typing import Any

import keras

from trainer.callbacks.described import DescribedCallback
from trainer.networks import Networks

_HOOKS = {name for name in dir(keras.callbacks.Callback) if name.startswith("on_")}
OF_ONE_OPTIMIZER = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)
_FORWARDED = _HOOKS - {"on_epoch_end"}


class ForNetwork(DescribedCallback):
    """Binds a callback to one network and its optimizer.

    The callback sees that network as its model, with the network's optimizer, and still stops the
    training of all. A log key that it adds, `learning_rate` for one, gets the network's name before
    it: `generator_learning_rate`.

    ```python
    ForNetwork("generator", keras.callbacks.ReduceLROnPlateau(monitor="g_loss"))
    ```

    Args:
        network: the network's name, or that of a model that a GANTrainer has as an attribute.
        callback: the callback.

    Attributes:
        network: the network's name.
        callback: the callback.

    Raises:
        ValueError: when training begins, if the model has no such network, or that no optimizer
            where the callback needs one.
    """

    def __init__(self, network: str, callback: keras.callbacks.Callback):
        super().__init__()
        self.network = network
        self.callback = callback
        # As attributes, so that whoever asks sees which hooks the callback has and which not.
        for hook in _FORWARDED:
            setattr(self, hook, getattr(callback, hook))

    def __getattr__(self, name: str) -> Any:
        if name == "callback":
            raise AttributeError(name)
        return getattr(self.callback, name)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Calls the callback's; what it adds to the logs gets the network's name before it."""
        logs = {} if logs is None else logs
        seen = dict(logs)
        self.callback.on_epoch_end(epoch, seen)
        for key in seen.keys() - logs.keys():
            logs[f"{self.network}_{key}"] = seen[key]

    def set_params(self, params: dict[str, Any]) -> None:  # noqa: D102
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:  # noqa: D102
        super().set_model(model)
        if not isinstance(model, Networks):
            raise ValueError(
                f"ForNetwork({self.network!r}, ...) needs a model of several networks, "
                f"trainer.Networks, but this is a {type(model).__name__}: give the callback itself."
            )
        network = model.model_named(self.network)
        if network is None:
            near = difflib.get_close_matches(self.network, model.networks, n=1)
            mend = (
                f"did you mean {near[0]!r}?" if near else f"they are {', '.join(model.networks)}."
            )
            raise ValueError(f"The model has no network {self.network!r}: {mend}")
        if self.network not in model.optimizers and needs_one_optimizer(self.callback):
            raise ValueError(
                f"{type(self.callback).__name__} is for an optimizer, but the network "
                f"{self.network!r} has none: bind it to one of {', '.join(model.optimizers)}."
            )
        self.callback.set_model(_View(model, self.network, network))


def unwrapped(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    """Returns the callback that is bound, or `callback` itself where it is not."""
    return unwrapped(callback.callback) if isinstance(callback, ForNetwork) else callback


def needs_one_optimizer(callback: keras.callbacks.Callback) -> bool:
    """Returns whether `callback` has hooks of Keras's that read or set the model's optimizer."""
    if not isinstance(callback, OF_ONE_OPTIMIZER):
        return False
    base = next(kind for kind in OF_ONE_OPTIMIZER if isinstance(callback, kind))
    own = type(callback).__mro__[: type(callback).__mro__.index(base)]
    return not any(name in _HOOKS for cls in own for name in vars(cls))


class _View:
    """A network with its optimizer, and with the whole model's `stop_training` and the like."""

    def __init__(self, model: Networks, name: str, network: keras.Model):
        vars(self).update(whole=model, network=network, name_in_whole=name)

    @property
    def optimizer(self) -> keras.Optimizer | None:
        return self.whole.optimizers.get(self.name_in_whole)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole if name in _OF_THE_WHOLE else self.network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.whole if name in _OF_THE_WHOLE else self.network, name, value)


_OF_THE_WHOLE = {
    "stop_training",
    "stop_evaluating",
    "stop_predicting",
    "train_function",
    "_initial_epoch",
}
