"""What the facts of a snapshot have to be before anything of it is used."""

from __future__ import annotations

from typing import Any

from trainer.snapshots.files import Contents, DamagedSnapshotError

_OF_ALL = {"seed": int, "progress": {"step": int, "epoch": int}}
_OF_TRAINING = {
    **{"epoch": int, "step": int, "stop_training": bool},
    **{
        "described": dict,
        "feeds": dict,
        "callbacks": dict,
        "first shapes": dict,
        "generators": dict,
    },
}


def checked(contents: Contents) -> Contents:
    """Returns `contents`, whose facts are those of a trainer, or of a whole training.

    Raises:
        DamagedSnapshotError: they are not.
    """
    fits = _fits(contents.facts, _OF_ALL)
    if "training" in contents.facts:
        fits = fits and _fits(contents.facts["training"], _OF_TRAINING | {"logs": object})
    if not fits:
        raise DamagedSnapshotError("its facts are not those of a training")
    return contents


def checked_feed(state: Any) -> dict[str, Any]:
    """Returns the state of a feed, which is that of some feed.

    Raises:
        DamagedSnapshotError: it is not.
    """
    kinds = {"passes": (list, tuple), "starts": (list, tuple), "exhausted": bool, "seed": object}
    fits = _fits(state, kinds)
    numbers = [*state["starts"], *(n for one in state["passes"] for n in one)] if fits else []
    seed = state["seed"] if fits else None
    if not fits or not all(type(n) is int or n is None for n in (*numbers, seed)):
        raise DamagedSnapshotError("its facts are not those of a training")
    return state


def _fits(facts: Any, schema: dict[str, Any]) -> bool:
    return isinstance(facts, dict) and all(
        name in facts and _is(facts[name], kind) for name, kind in schema.items()
    )


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return _fits(value, kind)
    if kind is int:
        return type(value) is int and value >= 0
    return isinstance(value, kind)
