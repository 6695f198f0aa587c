"""How TensorFlow and Keras run under test, and which tests the default run has."""

from __future__ import annotations

import gc
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.helpers import shared  # noqa: E402

# A busy machine, or a first trace, may take any time for an example.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

TIERS = {"exhaustive", "processes", "examples", "conformance"}  # besides the default one
OPTIONAL = ("torch", "grain", "jax")  # libraries of the extra `conformance`, in names of cases


def pytest_configure(config):
    if hands_out_tests(config):
        return
    import tensorflow as tf

    import tests.helpers.threads  # noqa: F401

    # The processor is four devices, for tests of several replicas; all other tests use the first.
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


def hands_out_tests(config):
    """Returns whether this process runs no test, but hands them out to workers of pytest-xdist.

    It does without TensorFlow, whose import the workers would wait for.
    """
    return bool(config.option.numprocesses) and not hasattr(config, "workerinput")


def pytest_ignore_collect(collection_path, config):
    # Only to collect Keras's own tests imports PyTorch and JAX.
    is_left_out = config.option.markexpr == "not long"
    return True if is_left_out and collection_path.name == "conformance" else None


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if "/conformance/" in item.nodeid or any(name in item.name.lower() for name in OPTIONAL):
            item.add_marker("conformance")
        if TIERS & {mark.name for mark in item.iter_markers()}:
            item.add_marker("long")


def pytest_collection_finish():
    gc.freeze()  # what has been imported is looked at no more


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Frees what a test leaves, traced functions above all.

    An iterator of tf.data may hold up what drops it for as long as it lived, up to a minute.
    """
    result = yield
    forget_custom_gradients()
    gc.collect()
    gc.freeze()
    return result


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if (nextitem is None or group_of(item) != group_of(nextitem)) and shared.let_go():
        gc.unfreeze()


def group_of(item):
    """Returns the group that runs in one worker, or the file of a test that may run in any."""
    mark = item.get_closest_marker("xdist_group")
    return mark.args[0] if mark else item.path


def forget_custom_gradients():
    """Lets graphs be collected that TensorFlow keeps for the functions with custom gradients.

    It registers such a gradient for each trace, and with it the whole graph, for ever.
    """
    from tensorflow.python.framework import ops

    registered = ops.gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]


def pytest_sessionfinish():
    from tests.helpers import processes

    processes.stop_server()
