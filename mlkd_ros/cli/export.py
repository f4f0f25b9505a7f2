# SPDX-License-Identifier: Apache-2.0
"""``mlkd export``: a student's graphs for other runtimes, after they proved to be the student."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import replacing, unused

if TYPE_CHECKING:
    from ..tracking.checkpoint import Checkpoint

FORMATS = ("onnx", "openvino", "checkpoint")
#: Mean IoU with the reference's boxes below which nothing is written.
LEAST_AGREEMENT = 0.99


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``export`` to the ``mlkd`` command."""
    parser = subparsers.add_parser(
        "export",
        help="write a student as ONNX or OpenVINO graphs (needs mlkd_ros[train])",
        description="Writes the graphs `template`, `search` and, for the smaller search region "
        "around a target that is where it was expected, `search_near`, with uint8 BGR patches as "
        "input. Before that, their boxes are compared with the trained network's; when the mean "
        f"IoU is below {LEAST_AGREEMENT} at either size, nothing is written.",
    )
    parser.add_argument("checkpoint", type=Path, help="the student (.safetensors)")
    parser.add_argument(
        "--format", choices=FORMATS, required=True,
        help="onnx, openvino (needs mlkd_ros[openvino]), or checkpoint: the same student with "
        "newly made graphs inside",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument(
        "--data", type=Path,
        help="video, folder of images or bag whose crops are compared (default: rendered flights)",
    )  # fmt: skip
    parser.add_argument("--crops", type=int, default=200, help="how many are compared")
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, compare, write. ValueError when the boxes differ."""
    from dataclasses import replace

    from ..distillation.export import check_exporter, export_onnx
    from ..distillation.parity import mean_agreement
    from ..distillation.student import student_from_checkpoint
    from ..tracking.checkpoint import load_checkpoint
    from ..tracking.engine import EngineError, create_engine

    if arguments.crops < 1:
        raise ValueError(f"--crops must be at least 1, not {arguments.crops}")
    check_exporter()
    checkpoint = load_checkpoint(arguments.checkpoint)
    _paths(checkpoint, arguments)
    exported = replace(checkpoint, graphs=export_onnx(student_from_checkpoint(checkpoint)))
    runtime = "openvino" if arguments.format == "openvino" else "onnxruntime"
    try:
        engine = create_engine(exported, "cpu", runtime)
    except EngineError as error:
        raise ImportError(str(error)) from error
    reference = create_engine(checkpoint, "cpu", "torch")
    agreement = mean_agreement(engine, reference, arguments.data, arguments.crops)
    figures = ", ".join(f"{mean:.4f} at {size}x{size}" for size, mean in agreement.items())
    verdict = f"mean IoU with the reference's boxes on {arguments.crops} crops: {figures}"
    if not min(agreement.values()) >= LEAST_AGREEMENT:
        raise ValueError(f"{verdict}, below {LEAST_AGREEMENT}: nothing written")
    arguments.output.mkdir(parents=True, exist_ok=True)
    _write(exported, arguments)
    print(f"{verdict}\nwritten to {arguments.output}")
    return 0


def _paths(checkpoint: Checkpoint, arguments: argparse.Namespace) -> dict[str, Path]:
    """The file of each graph, or of the checkpoint. FileExistsError where it may not be written."""
    folder, force = arguments.output, arguments.force
    if arguments.format == "checkpoint":
        return {"": unused(folder / arguments.checkpoint.name, force, makes_folder=True)}
    suffix = ".onnx" if arguments.format == "onnx" else ".xml"
    paths = {graph: folder / f"{graph}{suffix}" for graph in checkpoint.graphs}
    for path in paths.values():
        unused(path, force, makes_folder=True)
        if arguments.format == "openvino":  # its weights lie beside
            unused(path.with_suffix(".bin"), force, makes_folder=True)
    return paths


def _write(exported: Checkpoint, arguments: argparse.Namespace) -> None:
    paths = _paths(exported, arguments)
    if arguments.format == "checkpoint":
        from ..tracking.checkpoint import save_checkpoint

        save_checkpoint(exported, paths[""])
        return
    for graph, content in exported.graphs.items():
        if arguments.format == "onnx":
            with replacing(paths[graph]) as file:
                file.write(content)
        else:
            import openvino

            model = openvino.Core().read_model(content)
            openvino.save_model(model, paths[graph], compress_to_fp16=False)
