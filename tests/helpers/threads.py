"""Keeps a process of the tests, once it imports this, to a thread for each operation.

There is a worker of pytest-xdist for each core; threads of their own would only get in each other's
way.
"""

import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)
