"""What is asked of a GAN's arguments and networks, before anything changes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any, TypeVar, cast

import keras

from trainer.gan_data import inputs_of
from trainer.images import last_activation
from trainer.networks import Networks
from trainer.public import check_names

_Init = TypeVar("_Init", bound=Callable[..., None])
_ANSWERS = {
    "optimizer": "give d_optimizer and g_optimizer, one for each network",
    "optimizers": "give d_optimizer and g_optimizer, one for each network",
    "metrics": "make a metric an attribute of the trainer, and update it in track_logits",
}
_LOSSES = {"discriminator_loss", "generator_loss"}


def known_arguments(init: _Init) -> _Init:
    """Makes `__init__` answer an argument that it does not have with what it takes instead."""
    names = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in filter(_ANSWERS.__contains__, kwargs):
            raise TypeError(f"GANTrainer has no argument {name!r}: {_ANSWERS[name]}.")
        check_names("GANTrainer", names, kwargs)
        init(self, *args, **kwargs)

    return cast(_Init, checked)


def numbers(latent_dim: Any, label_noise: float | Callable, discriminator_steps: int) -> None:
    """Raises ValueError for a `latent_dim`, `label_noise` or `discriminator_steps` out of range."""
    sizes = latent_dim if isinstance(latent_dim, (tuple, list)) and latent_dim else [latent_dim]
    if not all(_is(size, Integral) and size > 0 for size in sizes):
        raise ValueError(
            f"latent_dim is {latent_dim!r}: expected a whole number from 1 up, or a tuple of such."
        )
    if not _is(discriminator_steps, Integral) or discriminator_steps < 1:
        raise ValueError(
            f"discriminator_steps is {discriminator_steps!r}: expected a whole number from 1 up."
        )
    if not callable(label_noise) and not (_is(label_noise, Real) and label_noise >= 0):
        raise ValueError(
            f"label_noise is {label_noise!r}: expected a number from 0 up, or a function of the "
            "step."
        )


def networks(
    generator: keras.Model,
    discriminator: keras.Model,
    latent_shape: tuple[int, ...],
    own: Collection[str],
) -> keras.KerasTensor:
    """Builds the networks if they are not yet; returns what the generator makes, as a symbol.

    Args:
        generator: the generator.
        discriminator: the discriminator.
        latent_shape: the shape of a latent point.
        own: the methods of `GANTrainer` that a subclass overrides, and that may use the networks in
            another way.

    Raises:
        TypeError: one is no Keras model.
        ValueError: the generator does not take the latent points, or the discriminator not what
            the generator makes, or one has other inputs or outputs than a step uses.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, keras.Model):
            raise TypeError(f"{name} is of type {type(network).__name__}: expected a keras.Model.")
        if isinstance(_input(network), dict) and "train_step" not in own:
            raise ValueError(
                f"The {name} takes its inputs as a dict of {', '.join(_input(network))}: make it "
                "of a list, as keras.Model([latent, labels], images) for a generator and "
                "keras.Model([images, labels], logits) for a discriminator."
            )
    if generator is discriminator:
        raise ValueError("generator and discriminator are the same network: give two.")
    latent = _latent(generator, latent_shape, own)
    try:
        images = _called(generator, latent)
    except Exception as error:
        _raise_if_swapped(generator, discriminator, latent, error)
        raise ValueError(_latent_misfit(generator, latent_shape, latent)) from error
    if keras.tree.is_nested(images):
        raise ValueError(
            f"The generator has {len(keras.tree.flatten(images))} outputs: give one that has a "
            "single one, the images. For several train trainer.Networks by a CustomTrainer."
        )
    try:
        logits = _called(discriminator, images)
    except Exception as error:
        _raise_if_swapped(generator, discriminator, latent, error)
        raise ValueError(
            f"The generator makes images of shape {images.shape}, but the discriminator takes "
            f"{_taken(discriminator)}: give both the same shape of image."
        ) from error
    if "train_step" not in own:
        _check_outputs(logits, own)
        _check_label_inputs(generator, discriminator, own)
    return keras.KerasTensor(images.shape, images.dtype, name="image")


def warn_of_outputs(discriminator: keras.Model, loss: Any) -> None:
    """Warns of a discriminator that surely makes probabilities for logits, or the other way."""
    if type(loss) in (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy):
        takes_logits = loss.from_logits
    elif loss in (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy):
        takes_logits = False
    else:
        return
    activation = last_activation(discriminator)
    sentence = None
    if takes_logits and activation in (keras.activations.sigmoid, keras.activations.softmax):
        sentence = (
            f"The discriminator ends in a {activation.__name__}, so it makes probabilities, but "
            "the loss takes logits: end it without an activation, or give "
            "loss=keras.losses.BinaryCrossentropy()."
        )
    elif not takes_logits and activation is keras.activations.linear:
        sentence = (
            "The discriminator ends without an activation, so it makes logits, but the loss takes "
            "probabilities: end it in activation='sigmoid', or give "
            "loss=keras.losses.BinaryCrossentropy(from_logits=True)."
        )
    if sentence:
        warnings.warn(sentence, stacklevel=4)


def saved_model(model: Any, arguments: dict[str, Any]) -> None:
    """Raises unless `model` is a saved GAN's, with its optimizers, and `arguments` go with it."""
    if not isinstance(model, Networks) or set(model.networks) != {"generator", "discriminator"}:
        raise TypeError(
            "model is no GAN's: expected what keras.models.load_model returns for a file that "
            "gan.model.save or ModelCheckpoint wrote."
        )
    if set(model.optimizers) != set(model.networks):
        raise ValueError(
            "model comes without its optimizers: load it with compile=True, or make a new "
            "GANTrainer of model.networks['generator'] and model.networks['discriminator']."
        )
    for name in ("d_optimizer", "g_optimizer", "seed"):
        if name in arguments:
            raise TypeError(f"{name} was given, but it comes with the model: leave it out.")
    if model.settings.get("label_noise", 0) is None and "label_noise" not in arguments:
        raise ValueError(
            "label_noise was a function, which is not saved: give it to from_model again."
        )


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _input(network: keras.Model) -> Any:
    """Returns the inputs of a network in the structure that it takes, `None` if unknown."""
    try:
        return network.input
    except (AttributeError, ValueError):
        return None


def _called(network: keras.Model, x: keras.KerasTensor) -> Any:
    if isinstance(_input(network), dict):
        return network(_input(network))
    taken, *labels = inputs_of(network) or [x]
    sizes = zip(taken.shape, x.shape, strict=False)
    if not all(None in pair or len(set(pair)) == 1 for pair in sizes):
        raise ValueError("The shapes differ.")  # which a call with symbols may let pass
    return network([x, *labels] if labels else x)


def _taken(network: keras.Model) -> str:
    inputs = inputs_of(network)
    return str(inputs[0].shape) if inputs else "another"


def _latent(
    generator: keras.Model, shape: tuple[int, ...], own: Collection[str]
) -> keras.KerasTensor:
    """Returns latent points as a symbol; those of a subclass are what the generator takes."""
    inputs = inputs_of(generator)
    is_other = "train_step" in own and inputs and len(inputs[0].shape) != 2
    if inputs and ("sample_latent" in own or is_other):
        return inputs[0]
    return keras.KerasTensor((None, *shape))


def _latent_misfit(
    generator: keras.Model, shape: tuple[int, ...], latent: keras.KerasTensor
) -> str:
    given = shape[0] if len(shape) == 1 else shape
    sizes = inputs_of(generator)[0].shape[1:] if inputs_of(generator) else (None,)
    known = "" if None in sizes else f", latent_dim={sizes[0] if len(sizes) == 1 else sizes}"
    return (
        f"latent_dim is {given}, so the generator gets latent points of shape {latent.shape}, but "
        f"it takes {_taken(generator)}: give the latent_dim that it begins with{known}. A "
        "generator that takes labels, too, is a keras.Model([latent, labels], images)."
    )


def _raise_if_swapped(
    generator: keras.Model, discriminator: keras.Model, latent: Any, error: Exception
) -> None:
    swapped = False
    with contextlib.suppress(Exception):
        _called(generator, _called(discriminator, latent))
        swapped = True
    if swapped:
        raise ValueError(
            "The networks are swapped: GANTrainer(generator, discriminator, ...) takes the "
            "generator first."
        ) from error


def _check_outputs(logits: Any, own: Collection[str]) -> None:
    if keras.tree.is_nested(logits) and not set(own) >= _LOSSES:
        raise ValueError(
            f"The discriminator has {len(keras.tree.flatten(logits))} outputs, but the losses of "
            "GANTrainer are of one: override discriminator_loss and generator_loss, which get all "
            "of them, or give a discriminator of one output."
        )


def _check_label_inputs(
    generator: keras.Model, discriminator: keras.Model, own: Collection[str]
) -> None:
    of_generator, of_discriminator = (
        max(0, len(inputs_of(network)) - 1) for network in (generator, discriminator)
    )
    if of_generator and not of_discriminator and set(own) & {*_LOSSES, "penalty"}:
        return  # which see to it that the images show what the labels say
    if of_generator and of_discriminator and of_generator != of_discriminator:
        raise ValueError(
            f"The generator has {of_generator} inputs for labels, but the discriminator has "
            f"{of_discriminator}: give both as many."
        )
    if of_generator != of_discriminator:
        with_labels, without = ("generator", "discriminator")
        if of_discriminator:
            with_labels, without = without, with_labels
        raise ValueError(
            f"The {with_labels} takes labels, but the {without} takes none: give both an input for "
            "them, or neither."
        )
