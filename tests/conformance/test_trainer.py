from tests.conformance.keras_tests import cases_of

globals().update(cases_of("keras.src.trainers.trainer_test"))
