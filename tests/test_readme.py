"""The README's blocks of Python run, one after the other, as a reader would type them."""

import os
import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_python_blocks_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "7 epochs, 157 steps" in result.stdout
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "gan.keras").exists()
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        f"step_{step:07d}.png" for step in (20, 40, 60)
    ]
    distilled = [float(value) for value in re.findall(r"distance: ([\d.]+)", result.stdout)]
    assert distilled[-1] < distilled[0]
