# SPDX-License-Identifier: Apache-2.0
"""The tracker with the shipped weights, on a scene whose every pixel is known."""

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking import (
    BoxOutsideImageError,
    InvalidBoxError,
    Tracker,
    TrackState,
    load_tracker,
    update_together,
)
from mlkd_ros.tracking.candidates import NO_PEAK, PEAKS
from mlkd_ros.tracking.existence import probability_of
from mlkd_ros.tracking.geometry import iou

SIZE = (640, 360)


@pytest.fixture(scope="module")
def tracker():
    return load_tracker(device="cpu")


@pytest.fixture(autouse=True)
def no_target_left(tracker):
    yield
    tracker.reset()


def background(size=SIZE):
    rng = np.random.default_rng(3)
    coarse = rng.integers(20, 70, (size[1] // 20, size[0] // 20, 3), np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def scene(x, y, size=SIZE, shown=True):
    """A small car from above, dark, on a dark textured ground, and its box."""
    image = background(size)
    box = (x, y, 48, 26)
    if shown:
        x, y = round(x), round(y)
        cv2.rectangle(image, (x, y), (x + 47, y + 25), (60, 70, 150), -1)
        cv2.rectangle(image, (x + 12, y + 3), (x + 22, y + 22), (35, 30, 25), -1)
        cv2.rectangle(image, (x + 36, y + 3), (x + 40, y + 22), (35, 30, 25), -1)
        cv2.rectangle(image, (x + 44, y + 2), (x + 47, y + 7), (200, 230, 240), -1)
        cv2.rectangle(image, (x + 44, y + 18), (x + 47, y + 23), (200, 230, 240), -1)
    noise = np.random.default_rng(round(x * 7 + y)).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), box


def path(i):
    return 100 + 5.0 * i, 120 + 30 * np.sin(i / 9)


def test_follows_a_moving_target(tracker):
    image, box = scene(*path(0))
    tracker.init(image, box)
    overlaps = []
    for i in range(1, 60):
        image, box = scene(*path(i))
        result = tracker.update(image)
        assert result.state == TrackState.TRACKING
        overlaps.append(float(iou(result.box, box)))
    assert np.mean(overlaps) > 0.6
    assert min(overlaps) > 0.3


def test_stays_on_it_when_the_resolution_changes(tracker):
    image, box = scene(*path(0))
    tracker.init(image, box)
    for i in range(1, 10):
        tracker.update(scene(*path(i))[0])
    image, box = scene(*path(10))
    half = cv2.resize(image, (320, 180), interpolation=cv2.INTER_AREA)
    result = tracker.update(half)
    assert iou(result.box, np.array(box) / 2) > 0.5


def test_a_lost_target_has_no_box_and_is_found_again_elsewhere(tracker):
    tracker.init(*scene(100, 120))
    for _ in range(5):
        tracker.update(scene(100, 120)[0])
    states = [tracker.update(scene(0, 0, shown=False)[0]) for _ in range(60)]
    assert states[-1].state == TrackState.LOST
    assert states[-1].box is None
    found = None
    for _ in range(150):
        found = tracker.update(scene(430, 240)[0])
        if found.box is not None:
            break
    assert found.box is not None
    assert found.reacquisitions == 1
    assert iou(found.box, (430, 240, 48, 26)) > 0.4


def test_a_bad_designation_keeps_the_target(tracker):
    image, box = scene(*path(0))
    tracker.init(image, box)
    for bad, error in (
        ((0, 0, 0, 5), InvalidBoxError),
        ((float("nan"), 0, 5, 5), InvalidBoxError),
        ((9000, 0, 50, 50), BoxOutsideImageError),
    ):
        with pytest.raises(error):
            tracker.init(image, bad)
    with pytest.raises((ValueError, TypeError)):
        tracker.init(image.astype(np.float32), box)
    image, box = scene(*path(1))
    assert iou(tracker.update(image).box, box) > 0.6


def test_update_without_a_target_says_what_to_do(tracker):
    with pytest.raises(RuntimeError, match="init"):
        tracker.update(scene(0, 0)[0])


def test_two_runs_are_the_same(tracker):
    runs = []
    for _ in range(2):
        tracker.init(*scene(*path(0)))
        runs.append([tracker.update(scene(*path(i))[0]) for i in range(1, 8)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("before", [1, 4])
def test_what_was_followed_before_changes_nothing(tracker, before):
    """Nor how many images of it: the camera's motion is looked at in every so many images."""

    def fly():
        tracker.init(*scene(*path(0)))
        results = []
        for i in range(1, 40):
            image = scene(*path(i), shown=not 20 <= i < 26)[0]
            results.append(tracker.update(np.roll(image, 3 * i, axis=1)))
        return results

    fresh = fly()
    tracker.init(*scene(300, 200))
    for i in range(before):
        tracker.update(scene(300 + i, 200)[0])
    assert fly() == fresh


def test_asks_the_frame_for_the_search_region_only(tracker):
    class Counting(BgrFrame):
        pixels = 0

        def window(self, x0, y0, x1, y1):
            self.pixels += (x1 - x0) * (y1 - y0)
            return super().window(x0, y0, x1, y1)

    image, box = scene(*path(0))
    tracker.init(image, box)
    frame = Counting(scene(*path(1))[0])
    tracker.update(frame)
    assert 0 < frame.pixels < 0.2 * frame.width * frame.height


def test_target_at_the_border_stays_in_the_image(tracker):
    tracker.init(*scene(590, 150))
    for i in range(20):
        result = tracker.update(scene(590 + 3 * i, 150)[0])
        if result.box is not None:
            x, y, w, h = result.box
            assert x >= 0 and y >= 0 and x + w <= SIZE[0] + 1e-6 and y + h <= SIZE[1] + 1e-6


def test_siblings_in_one_batch_see_what_each_alone_would(tracker):
    def two_cars(i):
        image, first = scene(*path(i))
        x, y = 500 - 4 * i, 250
        image[y : y + 26, x : x + 48] = scene(60, 60)[0][60:86, 60:108]
        return image, [first, (x, y, 48, 26)]

    alone, together = [], []
    pair = [tracker, tracker.sibling()]
    image, boxes = two_cars(0)
    for each, box in zip(pair, boxes, strict=True):
        each.init(image, box)
        alone.append([each.update(two_cars(i)[0]) for i in range(1, 6)])
    for each, box in zip(pair, boxes, strict=True):
        each.init(image, box)
    together = list(zip(*(update_together(pair, two_cars(i)[0]) for i in range(1, 6)), strict=True))
    for one, other in zip(alone, together, strict=True):
        assert [r.box for r in one] == [pytest.approx(r.box, abs=0.01) for r in other]
    with pytest.raises(ValueError, match="sibling"):
        update_together([tracker, load_tracker(device="cpu")], image)
    assert update_together([], image) == []


@pytest.mark.parametrize("size", [(1, 240), (640, 12), (240, 640)])
def test_an_image_that_cannot_be_of_the_same_scene_changes_nothing(tracker, size):
    tracker.init(*scene(*path(0)))
    tracker.update(scene(*path(1))[0])
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} image.*640x360.*designate"):
        tracker.update(np.zeros((size[1], size[0], 3), np.uint8))
    image, box = scene(*path(2))
    assert iou(tracker.update(image).box, box) > 0.6


def test_odd_images_one_odder_than_the_other_do_not_lead_it_away(tracker):
    """Each within the limit against the one before; those of the camera still show its scene."""
    tracker.init(*scene(*path(0)))
    tracker.update(cv2.resize(scene(*path(1))[0], (640, 260)))
    with pytest.raises(ValueError, match=r"640x190 image.*640x260.*designate"):
        tracker.update(cv2.resize(scene(*path(1))[0], (640, 190)))
    image, box = scene(*path(2))
    assert iou(tracker.update(image).box, box) > 0.6


def test_a_gap_in_the_images_is_no_loss(tracker):
    """After a pause of the camera the target gets the chance to be seen again."""
    tracker.init(*scene(*path(0)), stamp=0.0)
    for i in range(1, 6):
        tracker.update(scene(*path(i))[0], stamp=i / 30)
    image, box = scene(*path(6))
    assert iou(tracker.update(image, stamp=60.0).box, box) > 0.5
    hidden = tracker.update(scene(0, 0, shown=False)[0], stamp=120.0)
    assert hidden.state == TrackState.UNCERTAIN
    assert hidden.confidence < 0.2


class Looks:
    """The windows that an engine is asked for: a list of (size, peaks of the answer) a call."""

    def __init__(self, engine, monkeypatch):
        self.calls = []
        self._locate = engine.locate
        monkeypatch.setattr(engine, "locate", self)

    def __call__(self, frame, regions):
        found = self._locate(frame, regions)
        self.calls.append([(r.window.size, rows) for r, rows in zip(regions, found, strict=True)])
        return found

    def sizes(self):
        """Sizes of the calls since it was last asked."""
        sizes = [[size for size, _ in call] for call in self.calls]
        self.calls = []
        return sizes


def with_one_window(tracker):
    """The same student on an engine that has windows of the whole search region only."""
    engine = copy.copy(tracker._engine)
    engine.search_sizes = engine.search_sizes[:1]
    return Tracker(engine, tracker.settings)


def test_a_sure_target_is_looked_for_nearby_and_everywhere_on_doubt(tracker, monkeypatch):
    looks = Looks(tracker._engine, monkeypatch)
    tracker.init(*scene(100, 120))
    sizes = []
    for _ in range(5):
        tracker.update(scene(100, 120)[0])
        sizes += looks.sizes()
    assert sizes == [[159]] * 5
    hidden = tracker.update(scene(0, 0, shown=False)[0])
    (_, (_, whole)) = (call[0] for call in looks.calls)
    assert hidden.confidence < 0.5
    assert hidden.score in [pytest.approx(probability_of(float(row[4]))) for row in whole]
    assert looks.sizes() == [[159], [255]]
    tracker.update(scene(0, 0, shown=False)[0])
    assert looks.sizes() == [[255]]
    for _ in range(4):
        result = tracker.update(scene(100, 120)[0])
    assert (result.state, looks.sizes()[-1]) == (TrackState.TRACKING, [159])


def test_a_sudden_step_out_of_the_near_window_is_seen_in_the_same_image(tracker, monkeypatch):
    looks = Looks(tracker._engine, monkeypatch)
    tracker.init(*scene(200, 150))
    for _ in range(5):
        tracker.update(scene(200, 150)[0])
    looks.sizes()
    image, box = scene(240, 150)
    result = tracker.update(image)
    assert looks.sizes() == [[159], [255]]
    assert iou(result.box, box) > 0.7
    # It was not where it was expected.
    tracker.update(image)
    assert looks.sizes() == [[255]]


def test_a_target_cut_by_the_near_window_is_looked_at_whole(tracker, monkeypatch):
    """However sure the network is of it: it takes what it sees of it for the whole."""
    sure = Tracker(tracker._engine, replace(tracker.settings, calibration=(0.0, 5.0)))
    looks = Looks(tracker._engine, monkeypatch)
    sure.init(*scene(200, 150))
    for _ in range(5):
        sure.update(scene(200, 150)[0])
    looks.sizes()
    image, box = scene(226, 150)
    assert iou(sure.update(image).box, box) > 0.85
    assert looks.sizes() == [[159], [255]]


def test_a_fast_target_is_followed_as_without_a_near_window(tracker):
    """Over 60 images it goes up to 26 pixels an image, half its length, and turns."""
    whole = with_one_window(tracker)
    places = [(60.0, 60.0)]
    for i in range(60):
        speed, way = 2 + 0.4 * i, i / 8
        x, y = places[-1][0] + speed * np.cos(way), places[-1][1] + speed * np.sin(way)
        places.append((min(max(x, 10), 580), min(max(y, 10), 320)))
    worst = {}
    for each in (tracker, whole):
        each.init(*scene(*places[0]))
        overlaps = []
        for place in places[1:]:
            image, box = scene(*place)
            result = each.update(image)
            overlaps.append(float(iou(result.box, box)) if result.box else 0.0)
        worst[each] = min(overlaps)
    assert worst[tracker] > 0.3
    assert worst[tracker] > worst[whole] - 0.1


def test_after_a_gap_in_the_images_the_whole_region_is_searched(tracker, monkeypatch):
    looks = Looks(tracker._engine, monkeypatch)
    tracker.init(*scene(100, 120), stamp=0.0)
    for stamp in (0.03, 0.06, 0.09, 0.3, 0.33):
        tracker.update(scene(100, 120)[0], stamp=stamp)
    assert looks.sizes() == [[159], [159], [159], [255], [159]]


def test_without_a_near_window_the_whole_region_is_searched_once(tracker, monkeypatch):
    whole = with_one_window(tracker)
    looks = Looks(whole._engine, monkeypatch)
    whole.init(*scene(100, 120))
    for shown in (True, True, True, False, False):
        whole.update(scene(100, 120, shown=shown)[0])
    assert looks.sizes() == [[255]] * 5


def test_second_looks_of_several_targets_are_one_call(tracker, monkeypatch):
    """Each sees what it would see alone."""

    def cars(shown):
        image = scene(0, 0, shown=False)[0]
        boxes = [(100, 60, 48, 26), (300, 200, 48, 26), (480, 90, 48, 26)]
        for (x, y, w, h), visible in zip(boxes, shown, strict=True):
            if visible:
                image[y : y + h, x : x + w] = scene(60, 60)[0][60 : 60 + h, 60 : 60 + w]
        return image, boxes

    images = [cars([True] * 3)[0]] * 4 + [cars([False, True, False])[0]] * 2
    alone = []
    for box in cars([True] * 3)[1]:
        one = tracker.sibling()
        one.init(images[0], box)
        alone.append([one.update(image) for image in images])
    three = [tracker.sibling() for _ in range(3)]
    for each, box in zip(three, cars([True] * 3)[1], strict=True):
        each.init(images[0], box)
    looks = Looks(tracker._engine, monkeypatch)
    together = [update_together(three, image) for image in images]
    assert looks.sizes() == [
        *[[159] * 3] * 5, [255] * 2, [255, 159, 255],
    ]  # fmt: skip
    for one, other in zip(alone, zip(*together, strict=True), strict=True):
        assert [r.state for r in one] == [r.state for r in other]
        assert [r.confidence for r in one] == pytest.approx([r.confidence for r in other], 1e-3)


class Windows:
    """Stands in for an engine that sees nothing; counts the windows of each image."""

    def __init__(self, engine, seconds):
        self.shape, self.name = engine.shape, "none"
        self.search_sizes = engine.search_sizes
        self._engine, self._seconds = engine, seconds
        self.counts = []

    def warm_up(self):
        pass

    def template(self, patches):
        return self._engine.template(patches)

    def locate(self, frame, regions):
        self.counts.append(len(regions))
        self.places = {region.window for region in regions}
        clock.now += self._seconds * len(regions)
        found = np.full((len(regions), PEAKS, 6), NO_PEAK)
        found[:, 0] = 127.5, 127.5, 30, 30, -7.0, -9.0
        return found


class clock:  # noqa: N801, it stands in for a module
    now = 0.0

    @classmethod
    def perf_counter(cls):
        return cls.now


@pytest.mark.parametrize(
    ("budget", "targets", "windows"), [(None, 1, 3), (0.1, 1, 3), (0.011, 1, 2), (0.001, 1, 1),
                                       (0.031, 3, 6), (0.011, 3, 3)]
)  # fmt: skip
def test_search_on_loss_keeps_to_its_budget(tracker, monkeypatch, budget, targets, windows):
    monkeypatch.setattr("mlkd_ros.tracking.multi_tracker.time", clock)
    engine = Windows(tracker._engine, 0.005)
    first = Tracker(engine, tracker.settings)
    trackers = [first] + [first.sibling() for _ in range(targets - 1)]
    if budget is not None:
        first.search_budget = budget
    image, box = scene(*path(0))
    for each in trackers:
        each.init(image, box)
    places = set()
    for _ in range(120):
        results = update_together(trackers, image)
        places.update(engine.places)
    assert {result.state for result in results} == {TrackState.LOST}
    assert engine.counts[-60:].count(windows) > 55
    assert max(engine.counts) <= max(windows, targets)
    assert len(places) > 20


def test_a_budget_must_be_positive(tracker):
    with pytest.raises(ValueError, match="search_budget"):
        tracker.search_budget = 0.0


def test_renewing_the_template_waits_for_a_moment_without_a_box_to_find(tracker, monkeypatch):
    """The boxes are the same whether or not somebody calls settle."""
    lazy, settling = tracker.sibling(), tracker.sibling()
    image, box = scene(*path(0))
    made = []
    make = tracker._engine.template
    monkeypatch.setattr(tracker._engine, "template", lambda p: made.append(1) or make(p))
    for each in (lazy, settling):
        each.init(image, box)
    for i in range(1, 40):
        image, _ = scene(*path(i))
        made.clear()
        result = settling.update(image)
        assert not made
        settling.settle()
        assert lazy.update(image) == result
    assert settling._track.appearance.current is not settling._track.appearance.first
