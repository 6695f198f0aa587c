"""The examples run as a reader would run them, and print what they promise.

Runs are on scikit-learn's digits, with a fraction of the epochs that a reader gets: what the
numbers come to on MNIST is in the README. One run is in a new interpreter; the others are forked
from a process that has imported TensorFlow.
"""

import functools
import math
import os
import re
import subprocess
import sys

import count_lines
import digits
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import examples
from tests.helpers.examples import output_of
from tests.helpers.processes import ROOT
from tests.helpers.terminals import rows_of_screen, written_to_terminal

EPOCHS = 25  # half of what a user gets, for time's sake
LOSS = re.compile(r"Training loss \(for one batch\) at step (\d+): (\d+\.\d{4})")


def picture(path):
    """Returns the pixels of a PNG."""
    return tf.io.decode_png(path.read_bytes()).numpy()


def test_the_classifier_prints_the_lines_of_the_guide_and_learns():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, an extra")
    command = [sys.executable, *examples.command("mnist_classifier", "--epochs", EPOCHS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # An epoch of digits has 19 steps, so only the first tells its loss. The last line is the bar's,
    # as it is where there is no terminal.
    number = r"\d+\.\d+"
    epoch = [
        rf"Training loss \(for one batch\) at step 0: {number}",
        r"Seen so far: 64 samples",
        r"Training acc over epoch: [01]\.\d{4}",
        r"Validation acc: [01]\.\d{4}",
        r"Time taken: \d+\.\d\ds",
        rf"Epoch \d+/{EPOCHS} - 19 steps - {number}s - loss: .*",
    ]
    *epochs, last = result.stdout.splitlines()
    assert len(epochs) == EPOCHS * len(epoch)
    for place, line in enumerate(epochs):
        assert re.fullmatch(epoch[place % len(epoch)], line)
    # 0.81 after these epochs, 0.88 after a user's 50.
    accuracy = re.fullmatch(rf"Accuracy on 360 held-out digits: ({number})", last)[1]
    assert float(accuracy) > 0.7


@functools.cache
def first_loss(*options):
    """Returns the loss of the first batch that the classifier prints."""
    first_line = output_of("mnist_classifier", "--epochs", 1, *options).splitlines()[0]
    return float(LOSS.fullmatch(first_line)[2])


@pytest.mark.examples
def test_eager_steps_print_the_same_loss():
    assert first_loss("--eager") == pytest.approx(first_loss(), rel=1e-5)


@pytest.mark.examples
def test_the_loss_that_a_layer_adds_reaches_the_loss():
    # A hundredth of 64 rows of activations in the tens is far more than the loss of the labels.
    assert first_loss("--add-loss") > 5 * first_loss()


@pytest.mark.examples
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
    options = ("--data", tmp_path / "blank.npz", "--epochs", 1)
    command = examples.command("mnist_classifier", *options)
    screen = rows_of_screen(written_to_terminal(examples.run_script, *command))

    losses = [(int(step), float(loss)) for step, loss in LOSS.findall("\n".join(screen))]
    assert losses == [(step, pytest.approx(bias_loss(step), abs=2e-4)) for step in (0, 200)]
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


@pytest.mark.examples
def test_an_unknown_path_is_an_error_of_one_sentence():
    result = examples.run("mnist_classifier", "--data", "no/such.npz")
    assert result.code == 1
    assert result.output == ""
    assert result.errors.splitlines()[-1] == (
        "--data takes digits, mnist or the path of an .npz file, but got 'no/such.npz'."
    )
    assert "Traceback" not in result.errors


def test_a_file_without_the_arrays_is_an_error_of_one_sentence(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(SystemExit, match="needs x_train, y_train, x_test, y_test, but .* images"):
        digits.load(str(path))


@pytest.fixture
def few_digits(tmp_path):
    """Returns the path of 320 digits, for what takes long to learn all; 64 are to test on."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, an extra")
    arrays = zip(digits.ARRAYS, digits.load_digits(), (256, 256, 64, 64), strict=True)
    np.savez(tmp_path / "few.npz", **{name: array[:rows] for name, array, rows in arrays})
    return tmp_path / "few.npz"


@pytest.mark.examples
def test_dcgan_prints_its_losses_and_resumes(tmp_path, few_digits):
    options = ("--data", few_digits, "--output", tmp_path)
    out = output_of("dcgan_mnist", "--epochs", 1, *options)
    assert "74,625 in the discriminator" in out
    assert len(re.findall(r"(discriminator|generator) loss at step 0: \d\.\d{4}", out)) == 2
    counts = [int(count) for count in re.findall(r"(\d+) times \d", out)]
    assert len(counts) == 10
    assert sum(counts) == 1000
    seen = sum(count > 0 for count in counts)
    assert f"Digits seen among them: {seen} of 10; before training: " in out
    assert picture(tmp_path / "epoch_0001.png").shape == (8 * 28, 8 * 28, 1)

    # Another number of devices resumes from the same files.
    out = output_of("dcgan_mnist", "--epochs", 2, "--resume", "--devices", 2, *options)
    assert "Epoch 2/2" in out
    assert "Epoch 1/2" not in out
    assert not np.array_equal(
        picture(tmp_path / "epoch_0001.png"), picture(tmp_path / "epoch_0002.png")
    )


@pytest.mark.examples
def test_conditional_gan_prints_how_often_it_draws_the_label(tmp_path, few_digits):
    out = output_of("conditional_gan", "--epochs", 2, "--data", few_digits, "--output", tmp_path)
    share, before = map(float, re.search(r"in ([\d.]+)% of .*in ([\d.]+)%", out).groups())
    assert 0 < share <= 100
    assert 0 <= before < 30  # one digit in ten, but for luck
    assert picture(tmp_path / "epoch_0002.png").shape == (8 * 28, 10 * 28, 1)


@pytest.mark.examples
def test_vae_needs_fewer_nats_than_the_means_of_the_pixels(tmp_path):
    out = output_of("vae", "--epochs", 20, "--output", tmp_path)
    nats = re.search(r"costs ([\d.]+) nats: ([\d.]+) its pixels, ([\d.]+) its latent", out)
    cost, of_pixels, of_latent = map(float, nats.groups())
    assert cost == pytest.approx(of_pixels + of_latent, abs=0.11)
    assert cost < float(re.search(r"mean alone it costs ([\d.]+) nats", out)[1])
    assert picture(tmp_path / "reconstructions.png").shape == (2 * 28, 16 * 28, 1)
    assert picture(tmp_path / "samples.png").std() > 0


@pytest.mark.examples
def test_wgan_gp_sees_more_digits_than_before_training(tmp_path, few_digits):
    options = ("--epochs", 16, "--data", few_digits, "--output", tmp_path)
    out = output_of("wgan_gp", *options)
    number = r"(-?\d+\.\d+)"
    found = rf"held-out images: at most {number}, at the end {number}"
    assert re.search(found, out)
    seen = [int(digits) for digits in re.findall(r": +(\d+) of 10 digits seen", out)]
    before, after, real = seen
    assert before < after <= real == 10
    assert picture(tmp_path / "epoch_0016.png").shape == (8 * 28, 8 * 28, 1)

    on_two = output_of("wgan_gp", "--devices", 2, *options)
    distances, those_on_two = (re.search(found, printed).groups() for printed in (out, on_two))
    # Each device draws its own latent points, so the distances are close and not equal.
    assert those_on_two != distances
    assert list(map(float, those_on_two)) == pytest.approx(list(map(float, distances)), rel=0.1)


@pytest.mark.examples
def test_cyclegan_comes_nearer_to_the_true_counterparts(tmp_path, few_digits):
    out = output_of("cyclegan", "--epochs", 6, "--data", few_digits, "--output", tmp_path)
    found = re.findall(r"off by (\d\.\d{3}) to white, (\d\.\d{3}) to print", out)
    untouched, untrained, translated, true = (tuple(map(float, pair)) for pair in found)
    assert true == (0, 0)
    assert max(translated) < min(untrained)
    assert max(untrained) < min(untouched)
    assert picture(tmp_path / "translations.png").shape == (6 * 28, 16 * 28, 3)


def rows_of_table(out):
    """Returns the numbers of each row of a printed table."""
    rows = re.findall(r"^\| (\d+ \|.*) \|$", out, re.MULTILINE)
    return [[float(number) for number in row.split(" | ")] for row in rows]


@pytest.mark.examples
def test_distillation_compares_a_student_with_and_without_its_teacher():
    out = output_of("distillation", "--epochs", 20, "--seeds", 2)
    rows = rows_of_table(out)
    assert [row[0] for row in rows] == [2]
    assert all(0.3 < accuracy < 1 for row in rows for accuracy in row[1:])
    assert float(re.search(r"Accuracy of the teacher: (.*)", out)[1]) > 0.9


@pytest.mark.examples
def test_adversarial_training_keeps_more_accuracy_under_attack(tmp_path):
    out = output_of("adversarial_training", "--epochs", 6, "--seeds", 1, "--output", tmp_path)
    ((_, clean, attacked, hardened_clean, hardened_attacked),) = rows_of_table(out)
    assert clean > 0.7
    assert hardened_clean > 0.7
    assert attacked < clean
    assert hardened_attacked > attacked
    clean_and_attacked = picture(tmp_path / "attacked.png").astype(int)
    moved = np.abs(clean_and_attacked[:28] - clean_and_attacked[28:])
    assert moved.max() == round(0.2 * 255)  # the attack's epsilon


COUNTED = """
class A(dict):
    'Not counted.'

    # Nor this.
    def f(self, x):  # but this
        'Not
        counted.'
        return {
            x: 1,
        }


print(A)
""".replace("'", 3 * '"')


def test_lines_of_code_are_counted_without_comments_and_docstrings(tmp_path):
    path = tmp_path / "counted.py"
    path.write_text(COUNTED)
    assert count_lines.lines_of(path, "A") == 5
