from tests.conformance.keras_tests import test_cases as cases

globals().update(cases("keras.src.trainers.trainer_test"))
