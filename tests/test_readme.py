"""The README's blocks of Python and its commands run, as a reader would type them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.cluster import free_addresses
from tests.helpers.examples import output_of
from tests.helpers.processes import ROOT

README = ROOT / "README.md"


@pytest.mark.examples
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


# There is no Slurm here: these do what its commands of these names do for two tasks on one machine.
SCONTROL = """#!/bin/bash
[[ $1 == show && $2 == hostnames ]] && tr , '\\n' <<<"$3"
"""
SRUN = """#!/bin/bash
SLURM_PROCID=1 "$@" & SLURM_PROCID=0 "$@"
wait
"""


ACCURACY = r"Accuracy on 360 held-out digits: ([\d.]+)"


@pytest.mark.examples
def test_two_shells_train_together_and_resume(tmp_path):
    commands = launch("sh", "TF_CONFIG")
    first = run_in(tmp_path, commands.replace("--snapshots", "--epochs 1 --snapshots") + "wait")
    assert "2 devices, 23 steps" in first
    resumed = run_in(tmp_path, commands.replace("--snapshots", "--epochs 3 --snapshots") + "wait")
    assert "Training goes on from two/snapshot-" in resumed
    assert "Epoch 1/3" not in resumed
    assert "2 devices, 69 steps" in resumed
    alone = output_of("multi_worker", "--epochs", 3)
    assert re.findall(ACCURACY, resumed) == re.findall(ACCURACY, alone)  # the chief's only


@pytest.mark.examples
def test_slurm_launches_two_tasks(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, script in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    commands = launch("bash", "srun").replace("--snapshots", "--epochs 1 --snapshots")
    commands = commands.replace(":12345", "")  # a name has its port here, for want of machines
    printed = run_in(
        tmp_path,
        commands,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        SLURM_JOB_NODELIST=",".join(free_addresses(2)),
    )
    assert "2 devices, 23 steps" in printed
    assert list((tmp_path / "slurm").glob("snapshot-*"))


@pytest.mark.examples
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


@pytest.mark.examples
def test_a_run_is_killed_and_resumes(tmp_path):
    section = README.read_text().partition("## Snapshots\n")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert "kill -9" in commands
    commands = commands.replace(".venv/bin/python examples", f"{sys.executable} {ROOT}/examples")
    killed, _, resumed = run_in(tmp_path, commands).partition("Training goes on from run/snapshot-")
    assert "Accuracy" not in killed
    assert "Epoch 20/20" in resumed
    undisturbed = output_of("mnist_classifier", "--epochs", 20)
    assert re.search(r"Accuracy on .*", undisturbed)[0] in resumed
