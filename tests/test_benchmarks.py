"""The benchmark's command, its arithmetic, and that what it compares does the same work.

No timing is asserted. Rows run with a fraction of their data.
"""

import csv
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from benchmarks import __main__ as command
from benchmarks import (
    gan,
    memory,
    networks,
    other_networks,
    replicas,
    sizes,
    small_calls,
    table,
)
from benchmarks.by_hand import ArrayLoop, DatasetLoop, EvaluationLoop, PredictionLoop
from benchmarks.measuring import Line, Measured, alternately
from benchmarks.rows import ROWS

from tests.helpers import examples, processes

BEGIN, END = table.MARKERS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a run of the command on two quick rows, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "README.md").write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter | é\n", "utf-8")
    options = ("--rows", "fit-batch", "predict-batch", "--rounds", 1, "--output", folder)
    result = examples.run("benchmarks", *options, "--readme", folder / "README.md")
    assert result.code == 0, result.errors
    return folder, result.output


def parsed(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, options)])
    return command.parsed()


@pytest.mark.examples
@pytest.mark.xdist_group("a run of the benchmark")
def test_the_table_is_printed_as_markdown(run):
    _, out = run
    facts, blank, headings, rule, *lines, last = out.splitlines()
    assert f"Keras {keras.__version__}; " in facts
    assert blank == ""
    assert headings.startswith("| row | what | Keras | trainer |")
    assert {line.count("|") for line in (headings, rule, *lines)} == {headings.count("|")}
    assert [line.split(" | ")[0] for line in lines] == ["| fit-batch", "| predict-batch"]
    assert str(run[0]) in last


@pytest.mark.examples
@pytest.mark.xdist_group("a run of the benchmark")
def test_the_readme_has_the_printed_table_and_nothing_else_changed(run):
    folder, out = run
    shown = out.rstrip("\n").rpartition("\n")[0]
    expected = f"before\n\n{BEGIN}\n{shown}\n{END}\n\nafter | é\n"
    assert (folder / "README.md").read_text("utf-8") == expected


@pytest.mark.examples
@pytest.mark.xdist_group("a run of the benchmark")
def test_the_csv_has_every_number(run):
    with (run[0] / "benchmark.csv").open(newline="") as file:
        comments = [next(file) for _ in table.surroundings()]
        rows = list(csv.DictReader(file))
    facts = dict(line.removeprefix("# ").rstrip("\n").split(": ", 1) for line in comments)
    assert list(facts) == ["machine", "Python", "TensorFlow", "Keras", "NumPy", "date"]
    assert facts["TensorFlow"] == tf.__version__
    assert tuple(rows[0]) == table.COLUMNS
    assert [row["row"] for row in rows] == ["fit-batch", "predict-batch"]
    for row in rows:
        assert row["keras_min"] == row["keras_median"] == row["keras_max"]
        ratio = float(row["keras_median"]) / float(row["trainer_median"])
        assert float(row["ratio"]) == pytest.approx(ratio)
        assert row["by_hand_median"] == ""


@pytest.mark.examples
@pytest.mark.xdist_group("a run of the benchmark")
def test_the_chart_is_a_picture(run):
    pixels = tf.io.decode_png((run[0] / "benchmark.png").read_bytes()).numpy()
    assert pixels.shape[0] > 100
    assert pixels.shape[1] > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


@pytest.mark.parametrize(
    ("name", "nearest"), [("mlp-array", "mlp-arrays"), ("lstm-tf", "lstm-tfdata"), ("x", "")]
)
def test_the_error_of_an_unknown_row_names_the_nearest(monkeypatch, capsys, name, nearest):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--rows", "sizes", name)
    assert f"there is no {name!r}; the nearest is '{nearest}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_a_place_is_an_error_before_measuring(monkeypatch, capsys, tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--readme", path)
    assert BEGIN in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--rounds", 0), ("--readme", "no/such/file")])
def test_other_wrong_arguments_are_errors(monkeypatch, capsys, options):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, *options)
    assert options[0] in capsys.readouterr().err


def test_list_names_every_row(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--list"])
    command.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ROWS)


def test_medians_and_ratios():
    measured = Measured([4.0, 9.0, 5.0], [1.0, 7.0, 2.0], {"slow": [3.0] * 3, "fast": [1, 9, 1.6]})
    line = Line("row", "what", measured, target=2.5, limit=1.25)
    assert line.ratio == 2.5
    assert line.best_by_hand == "fast"
    assert line.beside_hand == 1.25
    assert line.reached
    assert table.markdown(line) == (
        "| row | what | 5.00 s (4.00–9.00) | 2.00 s (1.00–7.00) | 2.50 | ≥ 2.5 "
        "| 1.60 s (1.00–9.00), fast | 1.25 | ≤ 1.25 | yes |"
    )


@pytest.mark.parametrize(
    ("bounds", "reached"),
    [
        ({}, None),
        ({"target": 2.5}, True),
        ({"target": 2.51}, False),
        ({"limit": 1.24}, False),
        ({"target": 2, "limit": 1.24}, False),
        ({"target": 3, "limit": 2}, False),
    ],
)
def test_a_row_is_reached_if_all_its_bounds_are_kept(bounds, reached):
    line = Line("row", "what", Measured([5.0], [2.0], {"loop": [1.6]}), **bounds)
    assert line.reached is reached


def test_what_is_judged_is_what_is_shown():
    line = Line("row", "what", Measured([3995.0], [4000.0]), unit="MB", target=1)
    assert table.markdown(line).endswith(
        "| 3995 MB (3995–3995) | 4000 MB (4000–4000) | 1.00 | ≥ 1 |  |  |  | yes |"
    )


def test_a_line_without_keras_has_no_ratio():
    line = Line("row", "what", Measured([], [0.0123]))
    assert line.ratio is line.best_by_hand is line.beside_hand is line.reached is None
    assert table.markdown(line) == ("| row | what |  | 12.3 ms (12.3–12.3) |  |  |  |  |  |  |")


@pytest.mark.parametrize(("warm", "first"), [(True, "abc"), (False, "")])
def test_sides_are_measured_in_turn(warm, first):
    done, ready = [], []

    def side(name):
        def prepare():
            ready.append(name)
            return lambda: done.append(name)

        return prepare

    def measure(call):
        call()
        return len(done)

    measured = alternately({name: side(name) for name in "abc"}, 3, measure, warm)
    assert "".join(done) == first + "abc" + "cba" + "abc"
    assert ready == done
    offset = len(first)
    assert measured == {
        name: [offset + place for place in places]
        for name, places in {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}.items()
    }


@pytest.mark.examples
@pytest.mark.parametrize("loop", ["by step", "ahead", "graph", "XLA steps"])
def test_the_loops_by_hand_do_what_fit_does(loop):
    x, y = networks.data(200, 20)  # three batches of 64, and eight rows
    model, network = networks.compiled(networks.mlp(20)), networks.mlp(20)
    network.set_weights(model.get_weights())
    if loop in ("by step", "ahead"):
        by_hand = ArrayLoop(network, x, y, 64, shuffle=False, gather_ahead=loop == "ahead")
    else:
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
        by_hand = DatasetLoop(network, dataset, jit_compile=loop == "XLA steps")
    history = model.fit(x, y, batch_size=64, epochs=3, shuffle=False, verbose=0).history
    for epoch in range(3):
        logs = by_hand.epoch()
        assert logs == {key: pytest.approx(history[key][epoch], rel=1e-5) for key in history}
    for ours, keras_own in zip(network.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-6)


@pytest.mark.examples
def test_the_loops_by_hand_do_what_evaluate_and_predict_do():
    x, y = networks.data(70, 20)  # two batches of 32, and six rows
    model = networks.compiled(networks.mlp(20))
    expected = model.evaluate(x, y, batch_size=32, verbose=0, return_dict=True)
    logs = EvaluationLoop(model, x, y, 32).epoch()
    assert logs == {key: pytest.approx(expected[key], rel=1e-6) for key in expected}
    np.testing.assert_allclose(
        PredictionLoop(model, x, 32).predict(), model.predict(x, verbose=0), rtol=1e-6
    )


def test_a_loop_by_hand_takes_each_row_once_an_epoch():
    x, y = networks.data(130, 20)
    loop = ArrayLoop(networks.mlp(20), x, y, 64)
    orders = []
    loop.steps = lambda x, y, order, limit: orders.append((order.numpy().ravel(), int(limit)))
    loop.run()
    assert [limit for _, limit in orders] == [2, 1]
    assert sorted(np.concatenate([order for order, _ in orders])) == list(range(130))


# The command's own run has the first two, others differ from these and the rest in a number or a
# class, and the last have tests below.
APART = ("fit-batch", "predict-batch", "evaluate-batch", "cold-epoch", "memory", "sizes")
APART += ("replicas",)
APART += tuple(row.name for row in other_networks.ROWS)


@pytest.mark.examples
@pytest.mark.parametrize("name", [name for name in ROWS if name not in APART])
def test_each_row_runs(monkeypatch, name):
    monkeypatch.setattr(networks, "MNIST_ROWS", 128)
    monkeypatch.setattr(networks, "MNIST_HELD_OUT", 64)
    monkeypatch.setattr(small_calls, "CALLS", 1)
    monkeypatch.setattr(gan, "STEPS", 1)
    monkeypatch.setattr(gan, "BATCH_SIZE", 2)
    (line,) = ROWS[name].lines(1)
    assert line.name == name
    assert line.ratio > 0
    assert line.limit is None or line.beside_hand > 0


@pytest.mark.examples
@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("convnet", other_networks.on_arrays),
        ("lstm", other_networks.on_datasets),
        ("transformer", other_networks.on_arrays),
    ],
)
def test_each_network_trains(name, sides):
    ((build, shape),) = ((n[2], n[4]) for n in other_networks.NETWORKS if n[0] == name)
    keras_side, trainer_side, by_hand = sides(build, 70, shape)
    assert by_hand == {}
    for side in (keras_side, trainer_side):
        assert np.isfinite(side()().history["loss"]).all()


@pytest.mark.examples
def test_sizes_have_a_line_each_and_their_spread(monkeypatch):
    monkeypatch.setattr(sizes, "WITH_KERAS", 130)
    row = sizes.Sizes("sizes", "a step", 1.15, in_memory=(130, 200), on_disk=300, least_steps=4)
    *lines, spread = row.lines(1)
    assert [line.name for line in lines] == ["sizes-130", "sizes-200", "sizes-300"]
    assert [line.ratio is None for line in lines] == [False, True, True]
    costs = [line.measured.trainer[0] for line in lines]
    assert spread.beside_hand == pytest.approx(max(costs) / min(costs))
    assert spread.reached is (round(spread.beside_hand, 2) <= 1.15)


@pytest.mark.examples
def test_replicas_have_lines_for_a_step_and_for_a_group():
    lines = list(replicas.Replicas("replicas", "a step", steps=2, single_steps=1).lines(1))
    setups = ("one-device", "two-devices", "two-processes")
    expected = [f"replicas-{kind}-{setup}" for kind in ("step", "group") for setup in setups]
    assert [line.name for line in lines] == expected
    assert all(line.measured.trainer[0] > 0 for line in lines)
    assert [line.ratio is not None for line in lines] == [True, True, False, False, False, False]
    assert [line.best_by_hand for line in lines] == [None, "one device", "one device"] * 2


@pytest.mark.examples
def test_memory_is_that_of_a_new_process():
    held, peak = map(float, processes.run(measure_peak_beside_an_array).splitlines()[-1].split())
    assert 100 < peak < held


def measure_peak_beside_an_array():
    """Prints the megabytes of an array that this process holds, and the peak of one it starts."""
    held = np.ones(2**27)  # 1 GB here, none of it there
    print(held.nbytes / 2**20, memory.peak_of("trainer", size=1))
