import importlib.util
import pathlib

from tests.conformance.keras_tests import cases_of

FOLDER = pathlib.Path(importlib.util.find_spec("keras.src.models").origin).parent

for path in sorted(FOLDER.glob("*_test.py")):
    globals().update(cases_of(f"keras.src.models.{path.stem}"))
