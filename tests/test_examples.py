"""The examples run as a reader would run them, and print what they promise."""

import functools
import math
import os
import pathlib
import re
import struct
import subprocess
import sys

import digits
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
CLASSIFIER = ROOT / "examples" / "mnist_classifier.py"
EPOCHS = 25  # half of what a user gets, for time's sake
LOSS = re.compile(r"Training loss \(for one batch\) at step (\d+): (\d+\.\d{4})")


def start(*options, **pipes):
    command = [sys.executable, CLASSIFIER, *map(str, options)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


@functools.cache
def lines_of(*options, epochs=EPOCHS):
    """Returns the lines that a run on scikit-learn's digits prints."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, an extra")
    pipe = subprocess.PIPE
    process = start("--epochs", epochs, *options, stdout=pipe, stderr=pipe, text=True)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.splitlines()


def first_loss(lines):
    return float(LOSS.fullmatch(lines[0])[2])


def test_each_epoch_prints_the_lines_of_the_guide():
    # An epoch of digits has 19 steps, so only the first tells its loss. The last line is the bar's,
    # as it is where there is no terminal.
    number = r"\d+\.\d+"
    epoch = [
        rf"Training loss \(for one batch\) at step 0: {number}",
        r"Seen so far: 64 samples",
        r"Training acc over epoch: [01]\.\d{4}",
        r"Validation acc: [01]\.\d{4}",
        r"Time taken: \d+\.\d\ds",
        rf"Epoch \d+/{EPOCHS} - 19 steps - {number}s - acc: .*",
    ]
    *epochs, last = lines_of()
    assert len(epochs) == EPOCHS * len(epoch)
    for place, line in enumerate(epochs):
        assert re.fullmatch(epoch[place % len(epoch)], line)
    assert re.fullmatch(rf"Accuracy on 360 held-out digits: {number}", last)


def test_the_digits_are_learned():
    # 0.81 after these epochs, 0.88 after a user's 50.
    assert float(lines_of()[-1].rpartition(" ")[2]) > 0.7


def test_eager_steps_print_the_same_loss():
    assert first_loss(lines_of("--eager", epochs=1)) == pytest.approx(
        first_loss(lines_of()), rel=1e-5
    )


def test_the_loss_that_a_layer_adds_reaches_the_loss():
    # A hundredth of 64 rows of activations in the tens is far more than the loss of the labels.
    assert first_loss(lines_of("--add-loss", epochs=1)) > 5 * first_loss(lines_of())


def test_on_a_terminal_lines_come_above_the_bar(tmp_path):
    # Blank images of one class train the last bias alone, so each batch's loss is known.
    steps, rows = 202, 202 * 64
    blank = np.zeros((rows * 6 // 5, 28, 28), np.uint8)
    np.savez(
        tmp_path / "blank.npz",
        x_train=blank,
        y_train=np.zeros(len(blank), np.uint8),
        x_test=blank[:100],
        y_test=np.zeros(100, np.uint8),
    )
    screen = screen_of("--data", tmp_path / "blank.npz", "--epochs", 1)

    told = [(int(step), float(loss)) for step, loss in LOSS.findall("\n".join(screen))]
    assert told == [(step, pytest.approx(bias_loss(step), abs=2e-4)) for step in (0, 200)]
    assert screen[1] == "Seen so far: 64 samples"
    assert screen[3] == "Seen so far: 12864 samples"
    assert screen[4:6] == ["Training acc over epoch: 1.0000", "Validation acc: 1.0000"]
    assert screen[7].startswith("Epoch 1: 100%|")
    assert f"| {steps}/{steps} [" in screen[7]
    assert screen[8:] == ["Accuracy on 100 held-out digits: 1.0000"]


def bias_loss(step):
    """Returns the loss of a batch after `step` steps of SGD(1e-3) on ten biases, label 0."""
    bias = np.zeros(10)
    for _ in range(step):
        share = np.exp(bias) / np.exp(bias).sum()
        bias -= 1e-3 * (share - np.eye(10)[0])
    return math.log(np.exp(bias).sum()) - bias[0]


def screen_of(*options):
    """Returns the rows that a terminal would show after a run with `options`."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    import fcntl
    import termios

    terminal, stdout = pty.openpty()
    fcntl.ioctl(stdout, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = start(*options, stdout=stdout, stderr=subprocess.DEVNULL)
    os.close(stdout)
    output = b""
    with open(terminal, "rb", buffering=0) as reader:
        try:
            while piece := reader.read(65536):
                output += piece
        except OSError:  # how Linux says that the other end is closed
            pass
    assert process.wait() == 0
    rows = []
    for line in output.decode().rstrip().split("\r\n"):
        row = []
        for overwriting in line.split("\r"):
            row[: len(overwriting)] = overwriting
        rows.append("".join(row).rstrip())
    return rows


def test_an_unknown_path_is_told_in_one_sentence():
    pipe = subprocess.PIPE
    process = start("--data", "no/such.npz", stdout=pipe, stderr=pipe, text=True)
    out, errors = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert errors.splitlines()[-1] == (
        "--data takes digits, mnist or the path of an .npz file, but got 'no/such.npz'."
    )
    assert "Traceback" not in errors


def test_a_file_without_the_arrays_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(SystemExit, match="needs x_train, y_train, x_test, y_test, but .* images"):
        digits.load(str(path))
