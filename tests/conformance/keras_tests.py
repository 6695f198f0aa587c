"""Finds the test cases of an installed Keras test module."""

import importlib
import sys
import types
import unittest

import keras
import pytest

NEEDED = ("absl", "grain", "jax", "orbax.checkpoint", "requests", "tensorboard", "torch")


def cases_of(module):
    """Returns the test cases of `module`, a Keras test module's full name, by a name of their own.

    The name tells the module, because several modules have cases of the same name.
    """
    for library in NEEDED:
        pytest.importorskip(library, reason="Keras's tests need the extra `conformance`")
    _stand_in_for_root_conftest()
    loaded = importlib.import_module(module)
    cases = {
        f"{module.rpartition('.')[2]}_{name}": case
        for name, case in vars(loaded).items()
        if isinstance(case, type)
        and issubclass(case, unittest.TestCase)
        and case.__module__ == module
    }
    assert cases, f"{module} has no test cases"
    return cases


def _stand_in_for_root_conftest():
    """Gives Keras's tests what they import from the root of Keras's repository."""

    def skip_if_backend(backend, reason):
        return pytest.mark.skipif(keras.config.backend() == backend, reason=reason)

    root = types.ModuleType("conftest")
    root.skip_if_backend = skip_if_backend
    sys.modules.setdefault("conftest", root)
