"""What a trainer has beside its networks, an averaged one for instance, saved with them by name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.replacing import after_build

_STATEFUL = (
    keras.Variable,
    keras.random.SeedGenerator,
    keras.Layer,
    keras.Optimizer,
    tf.Variable,
    tf.Module,
)
_PREFIX = "attached"


class Attached:
    """Objects with variables by name: layers and models, optimizers, variables, seed generators.

    Values that were loaded wait for the object of their name, where there is none yet or where its
    optimizer has not made its variables. In a list or dict each part has a path, `name.key`.

    Args:
        known: returns the ids of the variables that the networks and their optimizers save.
    """

    def __init__(self, known: Callable[[], set[int]]):
        self._known = known
        self._values: dict[str, Any] = {}
        self._opaque: dict[str, Any] = {}  # objects whose variables have no name here
        self._waiting: dict[str, list[np.ndarray]] = {}  # by path
        self._configs: dict[str, dict[str, Any]] = {}
        self._warned: set[str] = set()

    def put(self, name: str, value: Any) -> None:
        """Attaches `value`, in place of one of that name, and gives it the values that wait.

        Args:
            name: the name.
            value: any object; those without variables are passed over.
        """
        self._values.pop(name, None)
        self._opaque.pop(name, None)
        parts = dict(_parts(name, value))
        is_open = isinstance(value, (list, dict)) and not value  # to which some may be added
        if is_open or any(isinstance(part, _STATEFUL) for part in parts.values()):
            self._values[name] = value
            self._take(parts.keys() & self._waiting.keys())
        elif hasattr(value, "__dict__") and not isinstance(value, type) and _is_foreign(value):
            self._opaque[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._configs

    def get(self, name: str) -> Any:
        """Returns the object of a name, made from its saved configuration where there is none."""
        if name not in self._values:
            made = keras.saving.deserialize_keras_object(self._configs[name])
            self.put(name, made)
        return self._values[name]

    def names(self) -> set[str]:
        """Returns the names of all that has values to save."""
        return {_name_of(path) for path, arrays in self._arrays().items() if arrays}

    def weights(self) -> list[keras.Variable]:
        """Returns the weights of attached layers and models."""
        layers = [part for part in self._parts().values() if isinstance(part, keras.Layer)]
        return list(_new((weight for layer in layers for weight in layer.weights), self._known()))

    def configs(self) -> dict[str, dict[str, Any]]:
        """Returns the configurations of attached models that share no variables with others."""
        configs = {name: c for name, c in self._configs.items() if name not in self._values}
        for name, variables in self._variables().items():
            model = self._values.get(name)
            if isinstance(model, keras.Model) and model.built:
                own = list(_new(model.variables, set()))
                if own and len(own) == len(variables):
                    configs |= _serialized(name, model)
        return configs

    def set_configs(self, configs: dict[str, dict[str, Any]]) -> None:
        """Takes what `configs` returned before."""
        self._configs = dict(configs)

    def release(self) -> None:
        """Lets go of the objects and keeps their values, for others of their names."""
        self._waiting, self._configs = self._arrays(), self.configs()
        self._values, self._opaque = {}, {}

    def save(self, store: Any) -> None:
        """Writes all values; warns, once, of objects whose variables cannot be found again."""
        for path, arrays in self._arrays().items():
            for number, array in enumerate(arrays):
                store[f"{_PREFIX}_{number}_{path}"] = array
        self._warn_of_opaque()

    def load(self, store: Any) -> None:
        """Reads what `save` wrote; warns of objects that are not in there."""
        self._waiting = loaded = _by_path(store)
        own = self._variables()
        warn_of_missing({_name_of(path) for path in own if own[path] and path not in loaded})
        self._take(own.keys() & loaded.keys())

    def _take(self, paths: Iterable[str]) -> None:
        """Gives parts of what is attached the values that wait for them."""
        parts, variables = self._parts(), self._variables()
        for path in paths:
            part, own, arrays = parts[path], variables[path], self._waiting[path]
            if len(own) != len(arrays) and isinstance(part, keras.Optimizer) and not part.built:
                if _keeps_order(part):
                    _assign(path, own, arrays[: len(own)])
                after_build(part, functools.partial(self._take_rest, part, path, own))
            elif isinstance(part, keras.Layer) and not part.built:
                _warn_of_unbuilt(path)
                del self._waiting[path]
            else:
                _assign(path, own, arrays)
                del self._waiting[path]

    def _take_rest(self, optimizer: keras.Optimizer, path: str, before: list[Any]) -> None:
        """Gives an optimizer the values of the variables that it has just made."""
        if path in self._waiting and self._parts().get(path) is optimizer:
            own, arrays = self._variables()[path], self._waiting.pop(path)
            in_order = all(old is new for old, new in zip(before, own, strict=False))
            count = len(before) if in_order else 0
            with tf.init_scope():  # also while a step is traced
                _assign(path, own[count:], arrays[count:])

    def _arrays(self) -> dict[str, list[np.ndarray]]:
        parts = self._parts()
        arrays = {path: [_value_of(v) for v in own] for path, own in self._variables().items()}
        for path, waiting in self._waiting.items():
            live = arrays.get(path, []) if _keeps_order(parts.get(path)) else []
            arrays[path] = live + waiting[len(live) :]
        return arrays

    def _parts(self) -> dict[str, Any]:
        # In an order that does not depend on which was attached first.
        return {
            path: p for name in sorted(self._values) for path, p in _parts(name, self._values[name])
        }

    def _variables(self) -> dict[str, list[Any]]:
        """Returns the variables of each part that none before it has."""
        seen = self._known()
        return {path: list(_new(_variables_of(p), seen)) for path, p in self._parts().items()}

    def _warn_of_opaque(self) -> None:
        own = self._variables().values()
        seen = self._known() | {
            variable_id(variable) for variables in own for variable in variables
        }
        lost = [
            name
            for name, value in self._opaque.items()
            if name not in self._warned
            and any(
                variable_id(variable) not in seen
                for _, part in _parts(name, dict(vars(value)))
                for variable in _variables_of(part)
            )
        ]
        if lost:
            self._warned.update(lost)
            warnings.warn(
                f"The variables in the trainer's {', '.join(lost)} are not saved with the model: "
                "make them, or the models that have them, attributes of the trainer itself.",
                stacklevel=2,
            )


def warn_of_missing(names: Iterable[str]) -> None:
    """Warns of attached objects, if any, that a file has no values of."""
    if names:
        warnings.warn(
            f"The file has no values of {', '.join(sorted(names))}, which the trainer adds: they "
            "keep the values that they have.",
            stacklevel=2,
        )


def variable_id(variable: Any) -> int:
    """Returns the id of a variable, the same for Keras's and for TensorFlow's view of it."""
    return id(variable.value if isinstance(variable, keras.Variable) else variable)


def _warn_of_unbuilt(path: str) -> None:
    warnings.warn(
        f"{path} is not built yet, so its weights were not loaded: begin it with "
        "keras.Input(shape), or call it on a batch, before they are.",
        stacklevel=2,
    )


def _name_of(path: str) -> str:
    return path.partition(".")[0]


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested containers, with their paths."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, part in list(value.items()):
            yield from _parts(f"{path}.{key}".replace("/", "|"), part)
    else:
        yield path, value


def _variables_of(part: Any) -> Iterator[Any]:
    if isinstance(part, (keras.Variable, tf.Variable)):
        yield part
    elif isinstance(part, keras.random.SeedGenerator):
        yield part.state
    elif isinstance(part, _STATEFUL):
        yield from part.variables


def _new(variables: Iterable[Any], seen: set[int]) -> Iterator[Any]:
    """Yields the variables that are not in `seen`, and adds them."""
    for variable in variables:
        if variable_id(variable) not in seen:
            seen.add(variable_id(variable))
            yield variable


def _value_of(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy())


def _keeps_order(part: Any) -> bool:
    """Returns whether variables that are made later come after those that there are."""
    return not isinstance(part, keras.optimizers.LossScaleOptimizer)


def _is_foreign(value: Any) -> bool:
    """Returns whether an object is neither of this package nor of Keras or TensorFlow."""
    return type(value).__module__.partition(".")[0] not in ("keras", "tensorflow", "trainer")


def _serialized(name: str, model: keras.Model) -> dict[str, dict[str, Any]]:
    try:
        return {name: keras.saving.serialize_keras_object(model)}
    except Exception:  # a class without a configuration: its trainer makes it again
        return {}


def _by_path(store: Any) -> dict[str, list[np.ndarray]]:
    arrays: dict[str, dict[int, np.ndarray]] = {}
    for key in store.keys():  # noqa: SIM118
        prefix, _, rest = key.partition("_")
        if prefix == _PREFIX:
            number, _, path = rest.partition("_")
            arrays.setdefault(path, {})[int(number)] = np.asarray(store[key])
    return {path: [own[number] for number in sorted(own)] for path, own in arrays.items()}


def _assign(path: str, variables: list[Any], arrays: list[np.ndarray]) -> None:
    here = [tuple(variable.shape) for variable in variables]
    there = [array.shape for array in arrays]
    if here != there:
        raise ValueError(
            f"The file has variables of the shapes {there} for {path!r}, which has {here} now: "
            "make it as it was when the file was saved."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
