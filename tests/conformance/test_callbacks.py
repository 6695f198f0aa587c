import importlib.util
import pathlib

from tests.conformance.keras_tests import test_cases as cases

FOLDER = pathlib.Path(importlib.util.find_spec("keras.src.callbacks").origin).parent

for path in sorted(FOLDER.glob("*_test.py")):
    globals().update(cases(f"keras.src.callbacks.{path.stem}"))
