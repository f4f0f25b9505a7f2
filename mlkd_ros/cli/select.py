# SPDX-License-Identifier: Apache-2.0
"""``mlkd select``: the best student of training runs, calibrated, becomes the one that ships."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import unused

if TYPE_CHECKING:
    from ..distillation.selection import Calibration, CandidateResult
    from ..evaluation.metrics import Scores

CONDITIONS = ("day", "dusk", "street", "dark", "very_dark", "high_gain", "codec")
DEFAULT_CONDITIONS = ("day", "street", "dark", "very_dark")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``select`` to the ``mlkd`` command."""
    parser = subparsers.add_parser(
        "select",
        help="choose the best student of training runs and calibrate it",
        description="Fly every student over the validation sequences in several conditions, choose "
        "the highest mean success AUC, fit the calibration of its confidence, and write the "
        "checkpoint with its provenance, and a model card beside it.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders, or students"
    )
    parser.add_argument("--validation", type=Path, required=True, help="folder of the sequences")
    parser.add_argument(
        "--dataset", default="pairs", help="layout of the sequences, as of `mlkd evaluate`"
    )
    parser.add_argument("--sequence", action="append", help="only this sequence, repeatable")
    parser.add_argument(
        "--condition", action="append", choices=CONDITIONS,
        help=f"repeatable (default: {', '.join(DEFAULT_CONDITIONS)})",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--noise-seeds", type=int, nargs="+", default=[0], metavar="N",
        help="darken every sequence once with each of these (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--starts", type=int, default=1, metavar="N",
        help="fly every sequence from N frames, evenly spaced (default: 1, its first)",
    )  # fmt: skip
    parser.add_argument(
        "--flights", type=int, default=0, metavar="N",
        help="rendered night flights to fly as well, as one more condition (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=Path,
        help="where the students come from, flown beside them: a student that is below it by day, "
        "or in its boxes, by more than a standard error is refused",
    )  # fmt: skip
    parser.add_argument(
        "--blend", type=float, nargs="+", default=[], metavar="SHARE",
        help="weight averages on the way from the start to each student, 0 to 1, as further "
        "candidates (needs --start)",
    )  # fmt: skip
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..distillation.selection import (
        calibrate,
        find_candidates,
        fly_as_shipped,
        fly_candidates,
        make_trials,
    )
    from ..evaluation.datasets import choose, load_dataset
    from ..evaluation.running import progress

    for path in (arguments.output, _card(arguments.output), _diagram(arguments.output)):
        unused(path, arguments.force, makes_folder=True)
    paths = find_candidates(arguments.runs)
    if arguments.starts < 1:
        raise ValueError(f"--starts must be 1 or more, not {arguments.starts}")
    problems: list[str] = []
    sequences = load_dataset(
        arguments.dataset, arguments.validation, problems, annotations=arguments.output.parent
    )
    if problems:
        raise ValueError(problems[0])
    sequences = choose(sequences, arguments.sequence)
    conditions = arguments.condition or list(DEFAULT_CONDITIONS)
    trials = make_trials(
        sequences, conditions, arguments.noise_seeds, arguments.flights, arguments.starts
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        progress(2 * sum(len(trial.sequence) for trial in trials)) as on_frame,
    ):
        options: dict[str, Any] = {"device": arguments.device, "on_frame": _one(on_frame)}
        start, paths = _with_start(arguments, paths, Path(folder))
        results = fly_candidates([*paths, *start], trials, **options)
        refused = _refused(results, bool(start))
        students = results[: len(results) - len(start)]
        fit = [result for result in students if _label(result) not in refused]
        best = max(fit, key=lambda result: result.success)
        calibration = calibrate(best.samples)
        _write(arguments, best, calibration, results, refused)
        shipped = fly_as_shipped(arguments.output, trials, **options)
    names = [sequence.name for sequence in sequences]
    card = _write_card(arguments, results, best, calibration, shipped, names)
    print(_candidates_table(results, best))
    print(f"wrote {arguments.output} ({best.path}) and {card}")
    return 0


def _with_start(
    arguments: argparse.Namespace, paths: list[Path], folder: Path
) -> tuple[list[Path], list[Path]]:
    """The start as a checkpoint that flies (none or one), and the candidates with the blends."""
    from ..distillation.student import average_files

    if arguments.start is None:
        if arguments.blend:
            raise ValueError("--blend averages students with their start: give --start as well")
        return [], paths
    if any(not 0 < share < 1 for share in arguments.blend):
        raise ValueError(f"--blend must be shares between 0 and 1, not {arguments.blend}")
    start = folder / "start" / "start.safetensors"
    average_files([arguments.start], start)
    blends = []
    for path in paths:
        for share in arguments.blend:
            blend = folder / path.parent.name / f"{path.stem}_{share:g}.safetensors"
            average_files([path, arguments.start], blend, [share, 1 - share])
            blends.append(blend)
    return [start], [*paths, *blends]


def _refused(results: list[CandidateResult], has_start: bool) -> dict[str, str]:
    """Labels of students below the start, the last result, and why. ValueError when all are."""
    from ..distillation.selection import refusal

    if not has_start:
        return {}
    *students, start = results
    reasons = {_label(result): refusal(result, start) for result in students}
    refused = {label: reason for label, reason in reasons.items() if reason}
    if len(refused) == len(students):
        told = "; ".join(f"{label}: {reason}" for label, reason in refused.items())
        raise ValueError(f"every student is below its start: {told}")
    return refused


def _one(on_frame: Any) -> Any:
    return lambda _: on_frame(1)


def _write(
    arguments: argparse.Namespace, best: CandidateResult, calibration: Calibration,
    results: list[CandidateResult], refused: dict[str, str],
) -> None:  # fmt: skip
    """Write the chosen student with its calibration and how it was chosen."""
    from ..tracking.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(best.path)
    settings = replace(checkpoint.settings, calibration=(calibration.slope, calibration.offset))
    selection = {
        "dataset": arguments.dataset,
        "conditions": list(best.scores),
        "noise_seeds": arguments.noise_seeds,
        "starts": arguments.starts,
        "flights": arguments.flights,
        "success_auc": {_label(result): round(result.success, 4) for result in results},
        "iou_on_target": {_label(r): round(r.box_quality, 4) for r in results},
        "refused": refused,
        "chosen": _label(best),
    }
    provenance = {
        **checkpoint.provenance,
        "selection": selection,
        "calibration": calibration.to_dict(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(replace(checkpoint, settings=settings, provenance=provenance), arguments.output)


def _label(result: CandidateResult) -> str:
    """``RUN/student_l2``: enough to find it, and no path of this machine."""
    return f"{result.path.parent.name}/{result.path.stem}"


def _row(label: str, scores: dict[str, Scores]) -> str:
    cells = [
        f"{s.success_auc:.3f} / {s.precision:.3f} / {s.normalised_precision:.3f}"
        for s in scores.values()
    ]
    mean = sum(s.success_auc for s in scores.values()) / len(scores)
    return f"| {label} | {' | '.join(cells)} | {mean:.3f} |"


def _head(conditions: list[str]) -> str:
    line = f"| student | {' | '.join(conditions)} | mean success |"
    return f"{line}\n| --- |{' --- |' * (len(conditions) + 1)}"


def _candidates_table(results: list[CandidateResult], best: CandidateResult) -> str:
    rows = [
        _row(f"**{_label(r)}**" if r is best else _label(r), r.scores)
        for r in sorted(results, key=lambda r: -r.success)
    ]
    return "\n".join([_head(list(best.scores)), *rows])


def _card(output: Path) -> Path:
    """The model card of a checkpoint."""
    return output.with_suffix(".md")


def _diagram(output: Path) -> Path:
    """The reliability diagram of a checkpoint, which its card shows."""
    return output.with_name(f"{output.stem}_reliability.png")


def _write_card(
    arguments: argparse.Namespace, results: list[CandidateResult], best: CandidateResult,
    calibration: Calibration, shipped: dict[str, Scores], sequences: list[str],
) -> Path:  # fmt: skip
    """Write the model card beside the checkpoint, and the diagram where matplotlib is there."""
    from ..distillation.calibration import draw_reliability, reliability_table
    from ..tracking.checkpoint import load_checkpoint, sha256

    checkpoint = load_checkpoint(arguments.output)
    diagram = _diagram(arguments.output)
    try:
        draw_reliability(calibration.table, diagram, "cross-validated by sequence")
        picture = f"\n![reliability diagram]({diagram.name})\n"
    except ImportError as error:
        picture = ""
        print(f"mlkd select: {error}", file=sys.stderr)
    flights = f" {arguments.flights} rendered night flights as well." if arguments.flights else ""
    text = _CARD.format(
        name=arguments.output.name,
        sha256=sha256(arguments.output),
        architecture=checkpoint.architecture,
        training=_training_lines(checkpoint.provenance),
        dataset=arguments.dataset,
        sequences=", ".join(sequences),
        starts=arguments.starts,
        noise_seeds=", ".join(map(str, arguments.noise_seeds)),
        flights=flights,
        candidates=_candidates_table(results, best),
        shipped="\n".join([_head(list(shipped)), _row(f"**{_label(best)}**", shipped)]),
        slope=calibration.slope,
        offset=calibration.offset,
        frames=calibration.frames,
        right=calibration.right,
        error=calibration.table.expected_error,
        raw=calibration.raw_error,
        table=reliability_table(calibration.table),
        picture=picture,
    )
    path = _card(arguments.output)
    path.write_text(text, encoding="utf-8")
    return path


def _correlation_loss(provenance: dict[str, Any]) -> str | None:
    """The kind that this student learned with: its name in a room, the only one of a single one."""
    kinds = provenance.get("config", {}).get("distillation", {}).get("crl", [])
    if not provenance.get("teacher"):
        return None
    return provenance["name"] if provenance.get("name") in kinds else ", ".join(kinds)


def _training_lines(provenance: dict[str, Any]) -> str:
    """What the checkpoint knows of its training, one line each."""
    config = provenance.get("config", {})
    shown = {
        "start": provenance.get("start"),
        "objective": provenance.get("kind"),
        "correlation loss": _correlation_loss(provenance),
        "teacher": ", ".join(provenance.get("teacher", [])) or None,
        "enhancer": provenance.get("enhancer"),
        "pairs seen": provenance.get("pairs"),
        "seed": config.get("seed"),
        "windows of training material": provenance.get("windows"),
    }
    return "\n".join(f"- {key}: {value}" for key, value in shown.items() if value is not None)


_CARD = """# {name}

SHA-256 `{sha256}`, architecture `{architecture}`. Written by `mlkd select`.

## Training
{training}

The whole experiment file is in the checkpoint's provenance.

## Validation
Success AUC / precision at 20 px / normalised precision, one pass, means over sequences ({dataset}:
{sequences}; each from {starts} frames on; noise seeds {noise_seeds}).{flights}
Conditions other than `day` are daylight footage darkened by the low-light camera model: synthetic.
Candidates fly without presence states, as is usual in this field:

{candidates}

The chosen one as the node runs it (calibrated, with doubt, loss and re-acquisition; a frame on
which it reports no box counts as missed):

{shipped}

## Confidence
`confidence = sigmoid({slope:.4f} logit(score) + {offset:.4f})`: the probability that the box
overlaps the target with an IoU above 0.5. Fitted on {frames} frames ({right} right) of these
sequences and conditions, every fourth accompanied by a look at a place where the target is not.
Expected calibration error {error:.3f} on sequences that the fit had not seen (raw score:
{raw:.3f}).

{table}
{picture}"""
