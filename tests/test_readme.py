"""The README's blocks of Python run, one after the other, as a reader would type them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.cluster import free_addresses

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


def launch(language: str, mark: str) -> str:
    """Returns the block that launches several processes, ready to run here in little time."""
    section = README.read_text().partition("## From one device to several machines\n")[2]
    blocks = re.findall(rf"```{language}\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (block,) = (block for block in blocks if mark in block)
    for port, address in zip(("12345", "12346"), free_addresses(2), strict=True):
        block = block.replace(f"localhost:{port}", address)
    return block.replace(".venv/bin/python examples", f"{sys.executable} {ROOT}/examples")


def run_in(folder: pathlib.Path, commands: str, **environment: str) -> str:
    result = subprocess.run(
        ["bash", "-c", commands],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return result.stdout


ACCURACY = r"Accuracy on 360 held-out digits: ([\d.]+)"


def test_two_shells_train_together_and_go_on(tmp_path):
    commands = launch("sh", "TF_CONFIG")
    first = run_in(tmp_path, commands.replace("--snapshots", "--epochs 1 --snapshots") + "wait")
    assert "2 devices, 23 steps" in first
    on = run_in(tmp_path, commands.replace("--snapshots", "--epochs 3 --snapshots") + "wait")
    assert "Training goes on from two/snapshot-" in on
    assert "Epoch 1/3" not in on
    alone = [sys.executable, ROOT / "examples" / "multi_worker.py", "--epochs", "3"]
    alone = subprocess.run(alone, capture_output=True, text=True, check=True)
    assert re.findall(ACCURACY, on) == re.findall(ACCURACY, alone.stdout)  # told once


# There is no Slurm here: these do what its commands of these names do for two tasks on one machine.
SCONTROL = """#!/bin/bash
[[ $1 == show && $2 == hostnames ]] && tr , '\\n' <<<"$3"
"""
SRUN = """#!/bin/bash
SLURM_PROCID=1 "$@" & SLURM_PROCID=0 "$@"
wait
"""


def test_slurm_launches_two_tasks(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, script in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    commands = launch("bash", "srun").replace("--snapshots", "--epochs 1 --snapshots")
    commands = commands.replace(":12345", "")  # a name has its port here, for want of machines
    told = run_in(
        tmp_path,
        commands,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        SLURM_JOB_NODELIST=",".join(free_addresses(2)),
    )
    assert "2 devices, 23 steps" in told
    assert list((tmp_path / "slurm").glob("snapshot-*"))


def test_the_kubernetes_manifest_runs_the_example():
    yaml = pytest.importorskip("yaml", reason="the manifest is in YAML")
    manifest = yaml.safe_load(launch("yaml", "TFJob"))
    (kind, replicas), *others = manifest["spec"]["tfReplicaSpecs"].items()
    assert (kind, replicas["replicas"], others) == ("Worker", 2, [])
    pod = replicas["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"  # the name by which the operator knows it
    python, script, option, folder = container["command"]
    assert (python, option) == ("python", "--snapshots")
    assert (ROOT / script).exists()
    (mount,) = container["volumeMounts"]
    assert folder.startswith(f"{mount['mountPath']}/")
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]


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
