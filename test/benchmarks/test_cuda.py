# SPDX-License-Identifier: Apache-2.0
"""The benchmark for CUDA devices runs on a machine with PyTorch, NumPy and OpenCV only; here on its
CPU.
"""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: Refuses whatever a bare machine does not have.
BARE = """
import runpy, sys
for missing in "safetensors yaml tqdm onnx onnxruntime rclpy sensor_msgs av".split():
    sys.modules[missing] = None
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_prints_parity_and_updates_on_a_bare_machine():
    command = [sys.executable, "-c", BARE, str(BENCHMARKS), str(BENCHMARKS / "cuda.py")]
    command += ["--device", "cpu", "--quick"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("| student | 255 | ", "| student | 16 | "):
        assert row in done.stdout
    assert "as wanted" in done.stdout
