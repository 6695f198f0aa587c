"""Snapshots as strangers make them: mutations of well-formed ones, with checksums that hold.

python -m tests.helpers.hostile --count 10000 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.models import mlp, seeded
from trainer import CustomTrainer
from trainer.snapshots.paths import path_of

X, Y = numbers(24, 4), numbers(24, 1, seed=1)
BATCH = 8


class Enough(Exception):  # noqa: N818
    """Ends a training that has begun."""


class Begun(keras.callbacks.Callback):
    """Ends a training after its first step."""

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        raise Enough


class Saves(Begun):
    """Saves a snapshot of the whole training after a step."""

    def __init__(self, path: Path, after: int):
        super().__init__()
        self.path, self.after = path, after

    def set_trainer(self, trainer: CustomTrainer) -> None:
        self.trainer = trainer

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.after:
            self.trainer.save_snapshot(self.path)


def callbacks_in(folder: Path) -> list[keras.callbacks.Callback]:
    """Returns callbacks that write and delete files, all of them in `folder`."""
    return [
        keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.ModelCheckpoint(folder / "model.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(folder / "backup"),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]


SOURCES = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "tf.data": lambda: {
        "x": tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(9, seed=1).batch(BATCH)
    },
}


class Target:
    """A trainer that is given one snapshot after the other, and a folder that is none of theirs.

    Args:
        source: the name of what it trains on.
        folder: for all files.
    """

    def __init__(self, source: str, folder: Path):
        self.folder = folder
        self.files, self.victim = folder / "files", folder / "victim"
        self.victim.mkdir()
        (self.victim / "precious").write_text("mine")
        self._source = source
        self._trainer = CustomTrainer(
            seeded(lambda: mlp(keras.layers.Dropout(0.2))), optimizer="adam", loss="mse", seed=1
        )
        self.well_formed = folder / "well-formed"
        self._fit(Saves(self.well_formed, 4))

    def take(self, snapshot: Path) -> str:
        """Lets the trainer resume from a snapshot; returns the kind of what came of it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._trainer.restore_snapshot(snapshot)
                self._fit(Begun())
        except Enough:
            return "trained"
        except Exception as error:
            return type(error).__name__
        finally:
            self._trainer._restored = None
        return "ended"

    def outside(self) -> dict[str, str]:
        """Returns the files outside of the callbacks' and the snapshots' folders, by path."""
        return {
            str(path.relative_to(self.folder)): path.read_text() if path.is_file() else ""
            for path in [self.victim, *self.victim.rglob("*")]
        } | {name: "" for name in os.listdir(self.folder) if not name.startswith("mutated")}

    def _fit(self, last: keras.callbacks.Callback) -> None:
        shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir()
        self._trainer.fit(
            **SOURCES[self._source](),
            epochs=3,
            verbose=0,
            callbacks=[*callbacks_in(self.files), last],
        )


def manifest_of(snapshot: Path) -> dict[str, Any]:
    return json.loads((snapshot / "manifest").read_text("utf-8").split("\n")[1])


def write_manifest(snapshot: Path, content: Any) -> None:
    """Writes a manifest whose checksum holds, and that nobody has signed."""
    line = f"{json.dumps(content)}\n"
    checksum = hashlib.sha256(line.encode()).hexdigest()
    (snapshot / "manifest").write_text(f"{checksum}\n{line}", "utf-8")


def rewrite_checksum(snapshot: Path) -> None:
    """Lets the manifest hold for the file of arrays that is there."""
    content = manifest_of(snapshot)
    data = (snapshot / content["arrays file"]).read_bytes()
    content |= {"checksum": hashlib.sha256(data).hexdigest(), "size": len(data)}
    write_manifest(snapshot, content)


def mutate(snapshot: Path, target: Target, draws: random.Random) -> None:
    """Changes a snapshot as somebody might who wants to do harm."""
    if draws.random() < 0.3:
        mutate_arrays(snapshot, draws)
    content = manifest_of(snapshot)
    for _ in range(draws.choice([1, 1, 1, 2, 5])):
        content = mutated(content, target, draws)
    write_manifest(snapshot, content)


def mutated(value: Any, target: Target, draws: random.Random) -> Any:
    """Returns `value` with one part of it changed, at any depth."""
    if isinstance(value, (dict, list)) and value and draws.random() < 0.93:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draws.choice(keys)
        what = draws.random()
        if what < 0.06:
            del value[key]
        elif what < 0.1 and isinstance(value, dict):
            value[draws.choice(NAMES)] = hostile(target, draws)
        elif what < 0.12:
            value[key] = value[draws.choice(keys)]
        else:
            value[key] = mutated(value[key], target, draws)
        return value
    return hostile(target, draws)


NAMES = (
    *("backup_dir", "filepath", "filename", "_training_metadata_path", "on_epoch_end"),
    *("__class__", "model", "_model", "set_params", "format", "facts", "training", "files"),
    *("arrays file", "0"),
)


def hostile(target: Target, draws: random.Random) -> Any:
    """Returns a value that somebody might put in any place."""
    victim = str(target.victim)
    return draws.choice(
        [
            *(
                victim,
                f"{victim}/precious",
                f"../{target.victim.name}",
                "/dev/zero",
                "../../../etc",
            ),
            *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), "", "0", [], {}),
            *([victim], {victim: victim}, {"list": [victim]}, {"bytes": "00"}, {"bytes": "xx"}),
            *({"array": "variables/model/sequential/dense/kernel"}, {"tensor": victim}),
            *({"named tuple": {"tuple": ["subprocess", "Popen", {"tuple": ["true"]}]}},),
            *({"defaultdict": {"tuple": ["eval", {"dict": []}]}}, {"generator": {"tuple": [{}]}}),
            *({"deque": {"tuple": [{"list": []}, -5]}}, {"ragged": {"tuple": []}}),
        ]
    )


def mutate_arrays(snapshot: Path, draws: random.Random) -> None:
    """Changes the arrays of a snapshot: their values, shapes, dtypes, names or the archive."""
    path = snapshot / manifest_of(snapshot)["arrays file"]
    with np.load(path) as loaded:
        arrays = dict(loaded)
    for _ in range(draws.choice([1, 1, 3])):
        name = draws.choice(list(arrays))
        array = arrays[name]
        arrays[name] = draws.choice(
            [
                np.zeros(array.shape, draws.choice(["f8", "i4", "U3", "c8", "bool", "u1"])),
                np.zeros((*array.shape, 2), array.dtype),
                np.zeros(0, array.dtype),
                np.frombuffer(draws.randbytes(array.nbytes), array.dtype).reshape(array.shape)
                if array.dtype.kind in "iuf"
                else array,
            ]
        )
        if draws.random() < 0.1:
            del arrays[name]
    (np.savez_compressed if draws.random() < 0.1 else np.savez)(path, **arrays)
    rewrite_checksum(snapshot)


def check_mutations(count: int, seed: int, folder: Path) -> Counter[str]:
    """Lets trainers resume from mutated snapshots.

    Returns:
        How many times each kind of end came.

    Raises:
        AssertionError: one has changed what is none of its own.
    """
    ends: Counter[str] = Counter()
    for source in SOURCES:
        place = folder / source
        place.mkdir()
        target = Target(source, place)
        assert target.take(target.well_formed) == "trained"
        before = target.outside()
        for number in range(count // len(SOURCES)):
            draws = random.Random(f"{seed} {source} {number}")
            snapshot = place / f"mutated-{number}"
            shutil.copytree(target.well_formed, snapshot)
            mutate(snapshot, target, draws)
            ends[target.take(path_of(snapshot))] += 1
            assert target.outside() == before, (source, number)
            shutil.rmtree(snapshot)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ends = check_mutations(args.count, args.seed, Path(folder))
    for kind, times in ends.most_common():
        print(f"{times:6} {kind}")


if __name__ == "__main__":
    main()
