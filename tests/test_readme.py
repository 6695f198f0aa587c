"""The README's blocks of Python run, one after the other, as a reader would type them."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_python_blocks_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "7 epochs, 157 steps" in result.stdout
    assert list((tmp_path / "snapshots").glob("snapshot-*"))
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "gan.keras").exists()
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        f"step_{step:07d}.png" for step in (20, 40, 60)
    ]
    distilled = [float(value) for value in re.findall(r"distance: ([\d.]+)", result.stdout)]
    assert distilled[-1] < distilled[0]


def test_a_run_is_killed_and_goes_on(tmp_path):
    section = README.read_text().partition("## Snapshots\n")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert "kill -9" in commands
    commands = commands.replace(".venv/bin/python examples", f"{sys.executable} {ROOT}/examples")
    result = subprocess.run(
        ["bash", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    killed, _, gone_on = result.stdout.partition("Training goes on from run/snapshot-")
    assert "Accuracy" not in killed
    assert "Epoch 20/20" in gone_on
    undisturbed = subprocess.run(
        [sys.executable, ROOT / "examples" / "mnist_classifier.py", "--epochs", "20"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    told = re.search(r"Accuracy on .*", undisturbed.stdout)[0]
    assert told in gone_on
