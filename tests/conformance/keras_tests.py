"""Finds the test cases of an installed Keras test module."""

import importlib
import sys
import types
import unittest

import pytest


def cases_of(module, left_out=()):
    """Returns the test cases of `module` by a name that tells which module they are from.

    Args:
        module: the full name of a Keras test module.
        left_out: names of tests that can only be about `model.fit`'s internals.
    """
    _stand_in_for_root_conftest()
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{error}: install the extra `conformance`", allow_module_level=True)
    found = {}
    for name, case in vars(loaded).items():
        own = isinstance(case, type) and case.__module__ == module
        if own and issubclass(case, unittest.TestCase):
            for test in left_out:
                if hasattr(case, test):
                    setattr(case, test, None)
            found[f"{module.rpartition('.')[2]}_{name}"] = case
    assert found, f"{module} has no test cases"
    return found


def _stand_in_for_root_conftest():
    """Gives Keras's tests what they import from the root of Keras's repository."""

    def skip_if_backend(backend, reason):
        import keras

        return pytest.mark.skipif(keras.backend.backend() == backend, reason=reason)

    root = types.ModuleType("conftest")
    root.skip_if_backend = skip_if_backend
    sys.modules.setdefault("conftest", root)
