"""The snapshots of one `fit`: when they are taken, what training goes on from, and an early end."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import keras

from trainer.callbacks.for_network import unwrapped
from trainer.callbacks.snapshots import Snapshots
from trainer.loop import Place
from trainer.peers import Peers
from trainer.progress import Progress
from trainer.snapshots import files
from trainer.snapshots.facts import checked
from trainer.snapshots.files import Contents, DamagedSnapshotError
from trainer.snapshots.lock import locked
from trainer.snapshots.paths import AnyPath, shown
from trainer.snapshots.preemption import SIGTERM, PreemptedError, Preemption
from trainer.snapshots.state import TrainingState
from trainer.snapshots.writer import Writer


@dataclass
class Fits:
    """What a trainer in this process has behind it.

    Attributes:
        finished: how many calls of `fit` came to their end.
        step: the step that the last one of them ended with, or the first one began with; later
            snapshots are of a training to go on with.
    """

    finished: int = 0
    step: int | None = None


class Session:
    """The snapshots that are asked for by hand while `fit` runs.

    Args:
        state: what they hold.
        restored: the snapshot to go on from, if there is one.
        peers: the processes that train together: all take part in a snapshot, the chief writes it.

    Attributes:
        resumed: the training to go on with, if there is one.
    """

    def __init__(self, state: TrainingState, restored: Contents | None, peers: Peers):
        self.resumed = state.resumed(restored) if restored else None
        self._state = state
        self._place = self.resumed and self.resumed.place
        self._peers = peers
        self._wanted: list[AnyPath] = []

    def save(self, path: AnyPath) -> None:
        """Lets a snapshot be written as soon as all hooks of the batch or the epoch were called."""
        self._wanted.append(path)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Goes around each validation, which nothing can go on in."""
        yield

    def steps_done_of(self, epoch: int) -> int:
        """Returns how many steps of an epoch were done when it was gone on with."""
        place = self.resumed and self.resumed.place
        return place.step if place and place.epoch == epoch else 0

    def finish(self, contents: Callable[[], Contents]) -> None:
        """Writes what was asked for in the last hooks, when training had ended."""
        (is_wanted,) = self._peers.of_any(bool(self._wanted))
        if is_wanted:
            self._write_wanted(contents())

    def wishes(self, place: Place) -> tuple[bool, ...]:
        """Returns whether a snapshot was asked for by hand."""
        self._place = place
        return (bool(self._wanted),)

    def act(self, is_wanted: bool) -> None:
        """Writes what was asked for."""
        if is_wanted:
            self._write_wanted(self._state.taken(self._place))

    def _write_wanted(self, contents: Contents) -> None:
        while self._wanted:
            path = self._wanted.pop()
            if self._peers.is_chief:
                files.write(path, contents)


class KeptSession(Session):
    """The snapshots that a callback asks for, too, and the early end that it brings.

    Args:
        state: what they hold.
        restored: the snapshot to go on from, if there is one.
        peers: the processes that train together.
        progress: how far training came.
        callback: says when they are due.
        writer: writes them.
        fit: the number of this `fit` among those of the process, counted from 0.
    """

    def __init__(
        self,
        state: TrainingState,
        restored: Contents | None,
        peers: Peers,
        *,
        progress: Progress,
        callback: Snapshots,
        writer: Writer,
        fit: int,
    ):
        super().__init__(state, restored, peers)
        self._progress = progress
        self._callback = callback
        self._writer = writer
        self._fit = fit
        self._has_moved = False
        step = restored.facts["progress"]["step"] if restored else progress.step
        self._step, self._time = step, time.monotonic()  # of the last one
        self._held: tuple[str, Contents] | None = None
        self._has_cut_validation = False
        self.preemption = Preemption(callback.max_seconds)

    @property
    def is_ending(self) -> bool:
        """Whether training is to end: for its time only once it moved on, lest it never does."""
        is_asked = self.preemption.is_asked
        return is_asked and (self._has_moved or self.preemption.reason == SIGTERM)

    @property
    def is_ready(self) -> bool:
        """Whether a snapshot that is due is taken, and does not wait for the writer's pause."""
        return self._writer.is_ready

    def wishes(self, place: Place) -> tuple[bool, ...]:
        """Returns whether a snapshot was asked for, whether to end, and whether one is due."""
        self._has_moved = True
        # The writer is the chief's, and so is the clock that counts.
        is_due = self._peers.is_chief and self._is_due(place)
        return *super().wishes(place), self.is_ending, is_due

    def act(self, is_wanted: bool, ends: bool, is_due: bool) -> None:
        """Writes what was asked for and what is due, and ends training."""
        super().act(is_wanted)
        if ends:
            self._held = self._taken()
            self._end()
        if is_due:
            self._put(*self._taken())

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:  # noqa: D102
        self._held = self._taken() if self._place else None
        yield
        (was_cut,) = self._peers.of_any(self._has_cut_validation)
        if was_cut:
            self._end()

    def cut_validation(self) -> None:
        """Is told that the validation ends early, and training with it."""
        self._has_cut_validation = True

    def told_end(self) -> str:
        """Returns the line that tells of the early end."""
        latest = next(iter(files.found_in(self._callback.directory)), None)
        saved = self._held and latest and latest.name == self._held[0]
        return f"Training ends early, as {self.preemption.reason}; " + (
            f"its snapshot is in {shown(self._callback.directory)}."
            if saved
            else f"the latest snapshot is {shown(latest) if latest else 'none at all'}."
        )

    def _end(self) -> None:
        """Ends training with a snapshot of what is held."""
        if self._held:
            self._put(*self._held)
            self._writer.flush()
        self.preemption.take_over()
        raise PreemptedError

    def _put(self, name: str, contents: Contents) -> None:
        if self._peers.is_chief:
            self._writer.put(name, contents)

    def _is_due(self, place: Place) -> bool:
        every, seconds = self._callback.every_steps, self._callback.every_seconds
        steps_passed = every and self._progress.step // every > self._step // every
        time_passed = seconds and time.monotonic() - self._time >= seconds
        epoch_ended = not place.step
        return epoch_ended or bool((steps_passed or time_passed) and self.is_ready)

    def _taken(self) -> tuple[str, Contents]:
        self._step, self._time = self._progress.step, time.monotonic()
        facts, arrays, _ = self._state.taken(self._place)
        name = files.name_of(self._progress.step, self._progress.epoch)
        return name, Contents({**facts, "fit": self._fit}, arrays)


@contextlib.contextmanager
def session_of(
    state: TrainingState,
    callbacks: Iterable[keras.callbacks.Callback],
    progress: Progress,
    fits: Fits,
    restored: Contents | None,
    peers: Peers,
    check: Callable[[Contents | None], None],
) -> Iterator[Session]:
    """Yields the session of a `fit`; ends it, and an early end of training is no error of its own.

    Args:
        state: what snapshots hold.
        callbacks: the callbacks, a `Snapshots` among them or not.
        progress: how far training came.
        fits: what this process has behind it; this `fit` is added.
        restored: a training to go on with, in place of the latest in the callback's directory.
        peers: the processes that train together.
        check: told the snapshot to go on from, raises where these are not about to do the same.

    Raises:
        ValueError: the directory cannot be written to, or there is no going on with what it has.
    """
    if fits.step is None:
        fits.step = progress.step
    callback = _one_of(callbacks)
    if callback is None:
        session = Session(state, restored, peers)
        check(restored)
        yield session
    else:
        with _prepared(callback.directory, peers.is_chief):
            state.check_repeatable()
            path = None
            if not restored:
                path, restored = _latest(callback.directory, fits)
            writer = Writer(callback.directory, callback.keep)
            session = KeptSession(
                *(state, restored, peers),
                progress=progress,
                callback=callback,
                writer=writer,
                fit=fits.finished,
            )
            check(restored)
            if path and peers.is_chief:
                _tell_of_going_on(path, session.resumed.place)
            with _ended_early(session, callback, peers.is_chief), contextlib.closing(writer):
                yield session
        if callback.preempted:
            return
    fits.finished += 1
    fits.step = progress.step


@contextlib.contextmanager
def _prepared(directory: AnyPath, is_chief: bool) -> Iterator[None]:
    """Lets the chief alone write to the folder of the snapshots, and begins with whole ones."""
    if not is_chief:
        yield
        return
    files.check_writable(directory)
    with locked(directory):
        files.remove_unfinished(directory)
        yield


@contextlib.contextmanager
def _ended_early(session: KeptSession, callback: Snapshots, is_chief: bool) -> Iterator[None]:
    """Lets `callback` take part in `session`, and training end early."""
    callback.begin_session(session)
    try:
        with session.preemption.watching():
            try:
                yield
            except PreemptedError:
                callback.preempted = True
                if is_chief:
                    print(session.told_end(), flush=True)
    finally:
        callback.end_session()
    # SIGTERM may also come in the last hooks, when nothing is left to end early.
    if session.preemption.reason and callback.exit_code is not None:
        raise SystemExit(callback.exit_code)


def _one_of(callbacks: Iterable[keras.callbacks.Callback]) -> Snapshots | None:
    found = [c for c in map(unwrapped, callbacks) if isinstance(c, Snapshots)]
    if len(found) > 1:
        raise ValueError(f"There are {len(found)} Snapshots callbacks: give one.")
    return found[0] if found else None


def _latest(directory: AnyPath, fits: Fits) -> tuple[AnyPath | None, Contents | None]:
    """Returns the latest snapshot that verifies, of a training that did not end in this process."""
    for path in files.found_in(directory):
        if files.step_of(path) <= fits.step:
            break
        try:
            contents = checked(files.read(path))
        except DamagedSnapshotError as error:
            message = f"The snapshot {shown(path)} is damaged and passed over: {error}."
            warnings.warn(message, stacklevel=2)
            continue
        _check_is_of_this_fit(path, contents, fits)
        return path, contents
    return None, None


def _tell_of_going_on(path: AnyPath, place: Place) -> None:
    print(
        f"Training goes on from {shown(path)}: {place.epoch} epochs, and {place.step} steps of "
        "the next one, are done.",
        flush=True,
    )


def _check_is_of_this_fit(path: AnyPath, contents: Contents, fits: Fits) -> None:
    fit = contents.facts.get("fit", fits.finished)  # one that was saved by hand has none
    if fit != fits.finished:
        name = shown(path)
        raise ValueError(
            f"The snapshot {name} was taken in call {fit + 1} of fit of its process, and this is "
            f"call {fits.finished + 1}: give each call a directory of its own, or go on with that "
            f"one by trainer.restore_snapshot({name!r}) before fit."
        )
