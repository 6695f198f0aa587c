"""Layers that several networks share: which they are, and networks that share them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import keras

# The network that a layer is taken from, and its name there; None where it is that network itself.
Origin = tuple[str, str | None]


def inner_first(networks: dict[str, keras.Model]) -> list[str]:
    """Returns the names of the networks, those that are part of another one before it."""
    return sorted(networks, key=lambda name: len(list(_nested(networks[name]))))


def shared_layers(networks: dict[str, keras.Model]) -> dict[str, dict[str, Origin]]:
    """Returns, for each network by name, its layers by name that come from an earlier network."""
    shared: dict[str, dict[str, Origin]] = {}
    origins: dict[int, Origin] = {}
    for name in inner_first(networks):
        layers = _joined_layers(networks[name])
        found = {layer.name: origins[id(layer)] for layer in layers if id(layer) in origins}
        if found:
            shared[name] = found
        origins |= {id(layer): (name, layer.name) for layer in layers if layer.name not in found}
        origins[id(networks[name])] = (name, None)
    return shared


def check_sharing(networks: dict[str, keras.Model]) -> None:
    """Checks that networks loaded from a file share the layers that `networks` share.

    Raises:
        ValueError: they do not, as where a class of its own has a layer of another network.
    """
    shared, whole = shared_layers(networks), {id(network) for network in networks.values()}
    owners: dict[int, str] = {}
    for name in inner_first(networks):
        layers = [each for each in networks[name].layers if each.name not in shared.get(name, {})]
        for layer in (inner for each in layers for inner in _nested(each, whole)):
            owner = owners.setdefault(id(layer), name)
            if layer.variables and owner != name:
                raise ValueError(
                    f"{owner} and {name} share the layer {layer.name!r}, but would not after "
                    "loading a file: make it a layer of both themselves, as keras.Sequential or "
                    "functional models, or make a model of it and give it to Networks, too, by a "
                    "name of its own."
                )


def unmark(config: Any, network: keras.Model, layers: dict[str, Origin]) -> None:
    """Removes the marks of shared objects from `layers` in the configuration of a network.

    By the marks Keras would take layers of another network, and the wrong one of their calls.
    """
    ids = {id(network.get_layer(name)) for name in layers}
    parts = [config["config"]]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("shared_object_id") in ids:
                del part["shared_object_id"]
            parts.extend(part.values())
        elif isinstance(part, (list, tuple)):
            parts.extend(part)


def with_sharing(
    networks: dict[str, keras.Model], shared: dict[str, dict[str, Origin]]
) -> dict[str, keras.Model]:
    """Returns networks made anew, where layers come from others, with the layers of these.

    Args:
        networks: the networks, each made by itself, inner ones first.
        shared: what `shared_layers` returned of the ones that they are made after.
    """
    made: dict[str, keras.Model] = {}
    for name, network in networks.items():
        origins = shared.get(name, {})

        def shared_or_own(layer: keras.Layer, origins: dict = origins) -> keras.Layer:
            if layer.name not in origins:
                return layer
            owner, layer_name = origins[layer.name]
            return made[owner] if layer_name is None else made[owner].get_layer(layer_name)

        made[name] = (
            keras.models.clone_model(network, clone_function=shared_or_own) if origins else network
        )
    return made


def _is_joined(network: keras.Model) -> bool:
    """Returns whether Keras joins the layers, so that it can join others in their place."""
    return type(network).__module__.partition(".")[0] == "keras"


def _joined_layers(network: keras.Model) -> list[keras.Layer]:
    layers = network.layers if _is_joined(network) else []
    return [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]


def _nested(layer: keras.Layer, leave_out: Collection[int] = ()) -> Iterator[keras.Layer]:
    """Yields a layer and all inside it, without those whose ids are in `leave_out`."""
    if id(layer) not in leave_out:
        yield layer
        for inner in getattr(layer, "layers", None) or ():
            yield from _nested(inner, leave_out)
