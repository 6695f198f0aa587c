"""Which snapshots this user has written on this machine: those that are signed with its key.

What a `tf.data` iterator held is bytes that TensorFlow trusts, so crafted ones can crash the
process. They are restored from signed snapshots alone; with others the data are run forward. The
key is made with the first snapshot, in the folder of Keras's settings, `~/.keras` or `KERAS_HOME`:
machines that share that folder trust each other's snapshots.
"""

from __future__ import annotations

import functools
import hmac
import os
import secrets
from pathlib import Path

_NAME = "snapshots.key"
_BYTES = 32


def signature_of(text: str) -> str:
    """Returns the signature of a text."""
    return hmac.new(_key(), text.encode(), "sha256").hexdigest()


def is_signed(text: str, signature: str) -> bool:
    """Returns whether `signature_of` has made `signature` of a text, with the key of this user."""
    return hmac.compare_digest(signature_of(text).encode(), signature.encode())


@functools.cache
def _key() -> bytes:
    """Returns the key, made if there is none; one of this process alone where it cannot be kept."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    try:
        path = Path(home).expanduser() / _NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _whole(path.read_bytes())
        with open(handle, "wb") as file:
            file.write(key := secrets.token_bytes(_BYTES))
        return key
    except (OSError, RuntimeError, ValueError):  # without a home, or with half a key
        return secrets.token_bytes(_BYTES)


def _whole(key: bytes) -> bytes:
    if len(key) != _BYTES:
        raise ValueError("somebody has not come to write all of it")
    return key
