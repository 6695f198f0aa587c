"""How TensorFlow and Keras run under test."""

import gc
import itertools
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf  # noqa: E402

# A worker of pytest-xdist for each core; threads of their own would only get in each other's way.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)

COLLECTED_AFTER = 20  # tests
_ended = itertools.count(1)


def pytest_collection_finish():
    gc.freeze()  # what has been imported is looked at no more


def pytest_runtest_teardown():
    # An iterator of tf.data may hold up what drops it for as long as it lived, up to a minute.
    if next(_ended) % COLLECTED_AFTER == 0:
        gc.collect()
