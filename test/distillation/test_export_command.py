# SPDX-License-Identifier: Apache-2.0
"""``mlkd export``: what is written is the student, and what is not the student is not written."""

import cv2
import numpy as np
import pytest

from mlkd_ros.cli import main
from mlkd_ros.distillation import export
from mlkd_ros.tracking.checkpoint import default_checkpoint, load_checkpoint


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(4)
    ground = cv2.resize(rng.integers(0, 120, (20, 30, 3), np.uint8), (300, 200))
    for i in range(8):
        cv2.imwrite(str(folder / f"{i:03}.png"), np.roll(ground, 2 * i, 1))
    return folder


def call(*arguments):
    return main(["export", str(default_checkpoint()), *map(str, arguments)])


@pytest.mark.parametrize("kind", ["onnx", "checkpoint", "openvino"])
def test_writes_what_agrees_with_the_reference(tmp_path, images, capsys, kind):
    if kind == "openvino":
        pytest.importorskip("openvino")
    out = tmp_path / "out"
    assert call("--format", kind, "-o", out, "--data", images, "--crops", 6) == 0
    said = capsys.readouterr().out
    assert "reference's boxes on 6 crops: 1.0000 at 255x255, 1.0000 at 159x159" in said
    if kind == "checkpoint":
        written = load_checkpoint(out / default_checkpoint().name)
        assert set(written.graphs) == {"template", "search", "search_near"}
        assert written.settings == load_checkpoint().settings
    else:
        suffix = {"onnx": "onnx", "openvino": "xml"}[kind]
        graphs = {f"{name}.{suffix}" for name in ("template", "search", "search_near")}
        assert graphs <= {p.name for p in out.iterdir()}


def test_rendered_flights_are_compared_by_default(tmp_path, capsys):
    assert call("--format", "onnx", "-o", tmp_path / "out", "--crops", 3) == 0
    assert "on 3 crops" in capsys.readouterr().out


@pytest.mark.parametrize("graphs", [("search", "search_near"), ("search_near",)])
def test_refuses_to_write_another_student(tmp_path, images, capsys, monkeypatch, graphs):
    def wrong(student):
        right = export_onnx(student)
        for parameter in student.reg_head.parameters():
            parameter.data += 0.3
        return right | {name: export_onnx(student)[name] for name in graphs}

    export_onnx = export.export_onnx
    monkeypatch.setattr(export, "export_onnx", wrong)
    out = tmp_path / "out"
    assert call("--format", "onnx", "-o", out, "--data", images, "--crops", 6) == 2
    assert "below 0.99: nothing written" in capsys.readouterr().err
    assert not out.exists()


def test_too_few_crops_are_an_error(tmp_path, images, capsys):
    assert call("--format", "onnx", "-o", tmp_path / "out", "--data", images) == 2
    assert "parity is judged on 200" in capsys.readouterr().err
