# SPDX-License-Identifier: Apache-2.0
"""night-flights-v1 stays as it is."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from mlkd_ros.cli import main as mlkd
from mlkd_ros.evaluation import night_flights, running
from mlkd_ros.evaluation.night_flights import (
    ENTRIES,
    FINGERPRINT_TOLERANCE,
    FlightEntry,
    RenderedFrames,
    fingerprint,
    fingerprint_distance,
    frames_to_render,
    load_night_flights,
)

ATTRIBUTES = {
    "illumination",
    "noise",
    "small target",
    "occlusion",
    "out of view",
    "distractors",
    "fast motion",
    "scale change",
}


def test_the_list() -> None:
    assert len(ENTRIES) == len({entry.name for entry in ENTRIES}) == 16
    assert sum(entry.frames for entry in ENTRIES) == 16 * 270
    assert {name for entry in ENTRIES for name in entry.attributes} == ATTRIBUTES
    assert max(entry.seed for entry in ENTRIES) < 100, "seeds from 100 on are used in training"


# By seed: flights of one seed share their town, which is slow to build.
@pytest.mark.parametrize(
    "entry", sorted(ENTRIES, key=lambda entry: entry.seed), ids=lambda entry: entry.name
)
def test_first_frames_have_not_changed(entry: FlightEntry) -> None:
    frame = entry.flight().render(entry.start)
    assert fingerprint_distance(fingerprint(frame.image), entry.fingerprint) <= (
        FINGERPRINT_TOLERANCE
    )
    assert frame.targets[0][2] > 0.9, "the target is well visible where trackers are initialised"


def test_fingerprints_ignore_noise_and_tell_pictures_apart() -> None:
    distances = [
        fingerprint_distance(one.fingerprint, other.fingerprint)
        for one in ENTRIES
        for other in ENTRIES
        if one is not other
    ]
    assert min(distances) > 4 * FINGERPRINT_TOLERANCE
    image = RenderedFrames("crossing", 1, 0, 1)[0]
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    noisy = np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)
    assert fingerprint_distance(fingerprint(image), fingerprint(noisy)) <= 1


def test_annotations_are_kept_until_the_renderer_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = FlightEntry("occlusion", 1, 357, 3, ("occlusion",), "")
    monkeypatch.setattr(night_flights, "ENTRIES", (entry,))
    rendered: list[int] = []
    (sequence,) = load_night_flights(tmp_path, on_frames=rendered.append)
    assert rendered == [1, 1, 1] and (sequence.name, sequence.night) == ("occlusion_1", True)
    assert np.isnan(sequence.boxes).all(), "hidden below the bridge"
    assert frames_to_render(tmp_path) == 0
    frames = pickle.loads(pickle.dumps(sequence.frames))
    np.testing.assert_array_equal(next(iter(frames)), entry.flight().render(357).image)
    monkeypatch.setattr(night_flights, "renderer_version", lambda: "another")
    assert frames_to_render(tmp_path) == 3


def test_only_what_is_asked_for_is_rendered_and_names_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    entries = tuple(FlightEntry("crossing", seed, 150, 2, ("noise",), "") for seed in (1, 2))
    monkeypatch.setattr(night_flights, "ENTRIES", entries)
    assert frames_to_render(tmp_path, ["crossing_2"]) == 2
    (sequence,) = load_night_flights(tmp_path, names=["crossing_2"])
    assert sequence.name == "crossing_2"
    assert not (tmp_path / "crossing_1.txt").exists()
    with pytest.raises(ValueError, match="no sequence 'crossing_3'; there are crossing_1, cross"):
        load_night_flights(tmp_path, names=["crossing_1", "crossing_3"])
    assert not (tmp_path / "crossing_1.txt").exists()
    # So it is at the command: it says what it renders, and how long that will take.
    arguments = ["evaluate", "--dataset", "night-flights", "--results", str(tmp_path / "results")]
    assert mlkd([*arguments, "--sequence", "crossing_9"]) != 0
    told = capsys.readouterr().err
    assert "no sequence 'crossing_9'" in told and "rendering" not in told
    monkeypatch.setattr(running, "_LINE_EVERY", 0.0)
    assert mlkd([*arguments, "--sequence", "crossing_1", "--tracker", "mil"]) == 0
    told = capsys.readouterr().err
    assert "rendering 2 frames once" in told and re.search(r"1 of 2 frames, \d+ s to go", told)
