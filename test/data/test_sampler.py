# SPDX-License-Identifier: Apache-2.0
"""Pair cache and pair sampler, on tiny synthetic sequences whose targets are easy to find again."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mlkd_ros.data.cache import (
    CacheSettings,
    PairCache,
    PairCacheWriter,
    build_pair_cache,
    split_by_sequence,
)
from mlkd_ros.data.coded import add_coded_windows
from mlkd_ros.data.packed import pack_cache, unpack_cache
from mlkd_ros.data.sampler import NEAR_SIDES, PairSampler, SamplerSettings, narrowed, pair_loader
from mlkd_ros.data.sequences import DatasetError, Sequence
from mlkd_ros.data.stills import Still

PLAIN = SamplerSettings(negative=0, grey=0, search_blur=0, coarse=0, dark=0, night_noise=0)


def _sequence(name: str, colour: tuple[int, int, int], frames: int = 6, **kind: object) -> Sequence:
    """A bright rectangle of one colour moving over a dim background."""
    images, boxes = [], []
    for number in range(frames):
        image = np.full((200, 300, 3), 60, np.uint8)
        x, y, w, h = 60 + 10 * number, 70 + 4 * number, 40, 24
        image[y : y + h, x : x + w] = colour
        images.append(image)
        boxes.append([x, y, w, h])
    return Sequence(name, images, np.array(boxes, np.float64), **kind)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PairCache:
    folder = tmp_path_factory.mktemp("cache")
    sequences = [
        _sequence("red", (0, 0, 255)),
        _sequence("green", (0, 255, 0)),
        _sequence("moon", (255, 255, 255), group="night", night=True),
    ]
    return build_pair_cache(folder, sequences, settings=CacheSettings(side=256))


def _bright_box(patch: np.ndarray) -> list[float]:
    """x0, y0, x1, y1 of what is brighter than the background, by brute force."""
    rows, columns = np.nonzero(patch.max(axis=2) > 150)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_cache_holds_every_object_where_it_says(cache: PairCache) -> None:
    assert len(cache) == 18 and cache.names == ["red", "green", "moon"]
    for row in range(len(cache)):
        x, y, w, h = cache.box[row]
        np.testing.assert_allclose(_bright_box(cache.windows[row]), [x, y, x + w, y + h], atol=1.5)
    np.testing.assert_allclose(cache.context, np.sqrt((40 + 32) * (24 + 32)), rtol=1e-5)


def test_unusable_objects_are_counted_and_left_out(tmp_path: Path) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    with PairCacheWriter(tmp_path, CacheSettings(side=64)) as writer:
        writer.begin("a", "videos")
        assert writer.add(image, (10, 10, 20, 20), 0)
        assert not writer.add(image, (10, 10, 5, 20), 1)
        assert not writer.add(image, (np.nan,) * 4, 2)
        assert not writer.add(image, (0, 0, 90, 9), 3)
        assert not writer.add(image, (0, 0, 80, 80), 4)
        assert not writer.add(image, (95, 10, 20, 20), 5)
    opened = PairCache.open(tmp_path)
    assert len(opened) == 1
    assert opened.skipped == {
        "too small": 1,
        "absent": 1,
        "too elongated": 1,
        "fills the image": 1,
        "outside the image": 1,
    }


def test_a_cache_whose_build_failed_is_not_readable(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="killed"),
        PairCacheWriter(tmp_path, CacheSettings(side=64)) as writer,
    ):
        writer.begin("a", "videos")
        writer.add(np.zeros((100, 100, 3), np.uint8), (10, 10, 20, 20), 0)
        raise RuntimeError("killed")
    with pytest.raises(DatasetError, match="interrupted"):
        PairCache.open(tmp_path)


def test_a_truncated_cache_is_refused(tmp_path: Path) -> None:
    build_pair_cache(tmp_path, [_sequence("red", (0, 0, 255))], settings=CacheSettings(side=64))
    data = (tmp_path / "windows.u8").read_bytes()
    (tmp_path / "windows.u8").write_bytes(data[:-1])
    with pytest.raises(DatasetError, match="windows.u8"):
        PairCache.open(tmp_path)


def test_a_still_of_another_size_than_annotated_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 60, 3), np.uint8))
    still = Still("a", tmp_path / "a.png", (60, 40), np.array([[10.0, 10, 20, 20]]))
    with pytest.raises(DatasetError, match=r"a\.png: is 60x50, its annotation says 60x40"):
        build_pair_cache(tmp_path / "cache", stills=[still])


def test_the_box_is_where_the_target_is(cache: PairCache) -> None:
    sampler = PairSampler(cache, PLAIN, seed=1)
    for index in range(40):
        pair = sampler.sample(index)
        assert pair.template.shape == (127, 127, 3) and pair.search.shape == (255, 255, 3)
        assert pair.positive and not pair.darkened
        np.testing.assert_allclose(_bright_box(pair.search), pair.box, atol=2.0)


def test_shift_and_scale_stay_in_their_ranges_and_use_them(cache: PairCache) -> None:
    sampler = PairSampler(cache, PLAIN, seed=2)
    boxes = np.array([sampler.sample(index).box for index in range(300)])
    shift = (boxes[:, :2] + boxes[:, 2:]) / 2 - 127.5
    assert 55 < np.abs(shift).max() <= 64.01
    scale = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / (40 * 24)) * 63.5 / 127
    assert 0.84 < scale.min() < 0.90 and 1.15 < scale.max() < 1.23


def test_pairs_depend_on_seed_and_index_only(cache: PairCache) -> None:
    settings = SamplerSettings(keep_clean=True)
    first, again = PairSampler(cache, settings, seed=5), PairSampler(cache, settings, seed=5)
    first.sample(3)
    for index in (7, 2, 11):
        a, b = first.sample(index), again.sample(index)
        for name in ("template", "search", "box", "clean_template", "clean_search"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    other = PairSampler(cache, settings, seed=6).sample(7)
    assert not np.array_equal(other.search, first.sample(7).search)


def test_negatives_show_another_object(cache: PairCache) -> None:
    settings = SamplerSettings(
        negative=0.5, grey=0, search_blur=0, coarse=0, dark=0, group_weights={"videos": 1.0}
    )
    sampler = PairSampler(cache, settings)
    pairs = [sampler.sample(index) for index in range(60)]
    for pair in pairs:
        same = pair.template[63, 63].argmax() == pair.search.max(axis=(0, 1)).argmax()
        assert same == pair.positive
        assert pair.positive or not pair.box.any()
    assert 15 <= sum(pair.positive for pair in pairs) <= 45


def test_hidden_targets_are_negative_and_covered_ones_partly_seen(cache: PairCache) -> None:
    plain = SamplerSettings(negative=0.0, coarse=0.0, dark=0.0, grey=0.0, night_noise=0.0)
    unchanged = [PairSampler(cache, plain, 5).sample(i) for i in range(20)]
    hidden = [PairSampler(cache, replace(plain, hidden=1.0), 5).sample(i) for i in range(20)]
    covered = [PairSampler(cache, replace(plain, covered=1.0), 5).sample(i) for i in range(20)]
    assert all(pair.positive for pair in unchanged)
    assert sum(not pair.positive for pair in hidden) >= 18  # a target pushed off the patch stays
    assert not any(pair.box.any() for pair in hidden if not pair.positive)
    assert all(pair.positive for pair in covered)
    for before, after in zip(unchanged, covered, strict=True):
        x0, y0, x1, y1 = np.clip(np.rint(before.box), 0, 255).astype(int)
        same = (before.search == after.search)[y0:y1, x0:x1].all(axis=2).mean()
        assert 0.3 < same < 1.0


def test_darkness_spares_real_night_frames(cache: PairCache) -> None:
    settings = SamplerSettings(negative=0, grey=0, dark=1, night_noise=0, keep_clean=True)
    sampler = PairSampler(cache, settings)
    for index in range(30):
        pair = sampler.sample(index)
        assert pair.clean_search is not None and pair.clean_template is not None
        assert pair.darkened != pair.night
        if pair.night:
            np.testing.assert_array_equal(pair.search, pair.clean_search)
        else:
            assert pair.search.mean() < pair.clean_search.mean()
            assert pair.search.shape == pair.clean_search.shape


def test_frames_of_a_pair_lie_within_the_gap(cache: PairCache) -> None:
    sampler = PairSampler(cache, SamplerSettings(max_gap=2))
    table, rng = sampler._tables[0], np.random.default_rng(0)
    for row in range(len(cache)):
        partners = {table.partner(row, 2, rng) for _ in range(40)}
        assert {int(cache.sequence[other]) for other in partners} == {int(cache.sequence[row])}
        assert max(abs(int(cache.frame[other]) - int(cache.frame[row])) for other in partners) == 2


def test_group_weights(cache: PairCache) -> None:
    sampler = PairSampler(cache, SamplerSettings(negative=0, group_weights={"night": 1}))
    assert all(sampler.sample(index).night for index in range(10))
    with pytest.raises(ValueError, match=r"\['fligths'\].*\['night', 'videos'\]"):
        PairSampler(cache, SamplerSettings(group_weights={"fligths": 1.0}))
    with pytest.raises(ValueError, match="positive"):
        PairSampler(cache, SamplerSettings(group_weights={"night": 0.0}))


def test_several_caches_are_sampled_together(cache: PairCache, tmp_path: Path) -> None:
    blue = [_sequence("blue", (255, 0, 0), group="flights")]
    other = build_pair_cache(tmp_path, blue, settings=CacheSettings(side=200, context=3.0))
    sampler = PairSampler([cache, other], PLAIN)
    colours = {int(sampler.sample(index).template[63, 63].argmax()) for index in range(60)}
    assert colours == {0, 1, 2}
    for index in range(20):
        pair = sampler.sample(index)
        np.testing.assert_allclose(_bright_box(pair.search), pair.box, atol=2.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_batches_and_resumes(cache: PairCache, workers: int) -> None:
    sampler = PairSampler(cache, SamplerSettings(dark=0.3), seed=9)
    batches = list(pair_loader(sampler, 4, 12, workers=workers))
    assert len(batches) == 3
    assert batches[0]["search"].shape == (4, 3, 255, 255)
    assert batches[0]["template"].permute(0, 2, 3, 1).is_contiguous()
    resumed = next(iter(pair_loader(sampler, 4, 4, start=8)))
    for name, value in batches[2].items():
        assert (resumed[name] == value).all(), name
    ranks = [next(iter(pair_loader(sampler, 2, 2, start=rank, stride=2))) for rank in (0, 1)]
    assert (ranks[1]["search"][0] == batches[0]["search"][1]).all()
    assert (ranks[0]["search"][1] == batches[0]["search"][2]).all()


def test_the_split_is_by_name_and_keeps_near_duplicates_together(tmp_path: Path) -> None:
    stills = [
        Still(f"images/drone_{number:05d}", tmp_path, (1, 1), np.zeros((0, 4)))
        for number in range(400)
    ]
    training, validation = split_by_sequence(stills, 0.2)
    assert len(training) + len(validation) == 400 and 20 <= len(validation) <= 160
    assert {still.name[:-1] for still in training}.isdisjoint(
        still.name[:-1] for still in validation
    )
    again = split_by_sequence(stills[::2], 0.2)[1]
    assert {still.name for still in again} <= {still.name for still in validation}


def test_narrowed_patches_show_the_same_pixels_about_the_same_centre() -> None:
    rng = np.random.default_rng(3)
    batch = {
        "search": torch.from_numpy(rng.integers(0, 255, (2, 3, 255, 255), np.uint8)),
        "clean_search": torch.zeros(2, 3, 255, 255, dtype=torch.uint8),
        "template": torch.zeros(2, 3, 127, 127, dtype=torch.uint8),
        "box": torch.tensor([[100.0, 110.0, 140.0, 130.0], [0.0, 0.0, 0.0, 0.0]]),
        "positive": torch.tensor([True, False]),
    }
    for side in NEAR_SIDES:
        narrow, margin = narrowed(batch, side), (255 - side) // 2
        assert narrow["search"].shape == narrow["clean_search"].shape == (2, 3, side, side)
        assert narrow["template"] is batch["template"]
        assert torch.equal(
            narrow["search"][:, :, 110 - margin, 100 - margin], batch["search"][:, :, 110, 100]
        )
        shown, hidden = narrow["box"].tolist()
        assert shown == [100 - margin, 110 - margin, 140 - margin, 130 - margin]
        assert hidden == [0, 0, 0, 0]


def test_stills_are_cut_evenly_up_to_a_limit(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((200, 300, 3), np.uint8))
    boxes = np.array([[10.0 + 25 * i, 50, 20, 20] for i in range(9)])
    still = Still("a", tmp_path / "a.png", (300, 200), boxes)
    settings = CacheSettings(side=64, per_still=4)
    cut = build_pair_cache(tmp_path / "cache", stills=[still], settings=settings)
    assert cut.object.tolist() == [0, 3, 6]


def test_excluded_sequences_are_not_seen_and_weak_ones_seldom(cache: PairCache) -> None:
    videos = replace(PLAIN, group_weights={"videos": 1.0})
    alone = PairSampler(cache, replace(videos, exclude=("red",)))
    assert {int(alone.sample(i).template[63, 63].argmax()) for i in range(30)} == {1}  # green
    seldom = PairSampler(cache, replace(videos, fewer={"re": 0.1}))
    seen = [int(seldom.sample(i).template[63, 63].argmax()) for i in range(300)]
    assert 10 <= seen.count(2) <= 50  # one in eleven
    with pytest.raises(ValueError, match="exclude names 'blue'"):
        PairSampler(cache, replace(videos, exclude=("blue",)))


def test_loose_boxes_are_marked(cache: PairCache) -> None:
    sampler = PairSampler(cache, replace(PLAIN, loose=("gre",)))
    pairs = [sampler.sample(index) for index in range(20)]
    days = [pair for pair in pairs if not pair.night]
    assert all((int(p.template[63, 63].argmax()) == 1) == p.loose for p in days)
    assert not any(pair.loose for pair in pairs if pair.night)


def test_high_gain_and_a_camera_s_processing_change_what_is_seen(cache: PairCache) -> None:
    dark = SamplerSettings(negative=0, grey=0, coarse=0, search_blur=0, dark=1, night_noise=0)
    dark = replace(dark, group_weights={"videos": 1.0}, keep_clean=True)
    samplers = {
        name: PairSampler(cache, replace(dark, **change), 3)
        for name, change in (
            ("plain", {}),
            ("gain", {"high_gain": 1.0}),
            ("seen", {"developed": 1.0}),
        )
    }
    pairs = {name: [s.sample(i) for i in range(12)] for name, s in samplers.items()}
    for index in range(12):
        ways = [pairs[name][index] for name in pairs]
        np.testing.assert_array_equal(ways[0].box, ways[1].box)  # the same geometry
        np.testing.assert_array_equal(ways[0].clean_search, ways[2].clean_search)
        assert all(pair.darkened for pair in ways)

    def noise(pair):
        """Deviation of the upper left corner, all background, in grey levels."""
        return pair.search[4:60, 4:60].astype(float).std()

    assert np.median([noise(p) for p in pairs["gain"]]) > np.median(
        [noise(p) for p in pairs["plain"]]
    )


def test_coded_windows_are_made_once_and_sampled(tmp_path: Path) -> None:
    pytest.importorskip("av")
    sequences = [_sequence("red", (0, 0, 255)), _sequence("green", (0, 255, 0))]
    cv2.imwrite(str(tmp_path / "a.png"), np.full((200, 300, 3), 90, np.uint8))
    still = Still("a", tmp_path / "a.png", (300, 200), np.array([[100.0, 80, 40, 24]]))
    plain = build_pair_cache(tmp_path / "c", sequences, [still], CacheSettings(side=256))
    assert plain.coded is None
    with_coded = add_coded_windows(plain)
    assert with_coded.coded is not None and with_coded.coded.shape == plain.windows.shape
    means = with_coded.coded.reshape(13, -1).mean(1)
    assert (means[:12] > 0).all() and means[12] == 0  # the still is no stream
    again = np.array(with_coded.coded)
    (tmp_path / "c" / "coded.u8").unlink()
    np.testing.assert_array_equal(add_coded_windows(PairCache.open(tmp_path / "c")).coded, again)
    settings = replace(PLAIN, coded=1.0, keep_clean=True, group_weights={"videos": 1.0})
    sampler, unchanged = PairSampler(with_coded, settings, 2), PairSampler(plain, PLAIN, 2)
    assert unchanged.sample(0).clean_search is None
    for index in range(10):
        pair = sampler.sample(index)
        assert pair.darkened and pair.clean_search is not None
        np.testing.assert_allclose(_bright_box(pair.clean_search), pair.box, atol=2.0)
        assert not np.array_equal(pair.search, pair.clean_search)
    stills = PairSampler(with_coded, replace(settings, group_weights={"stills": 1.0}))
    assert not stills.sample(0).darkened  # it has no coded windows
    (tmp_path / "c" / "coded.u8").write_bytes(b"short")
    with pytest.raises(DatasetError, match=r"coded\.u8: \d+ bytes expected"):
        PairCache.open(tmp_path / "c")


def test_a_cache_travels_in_one_file_of_a_given_size(cache: PairCache, tmp_path: Path) -> None:
    path = tmp_path / "pack"
    assert pack_cache(cache, path, 10**7, side=128, quality=95) == len(cache)
    there = unpack_cache(path, tmp_path / "there")
    assert there.names == cache.names and there.night == cache.night and there.settings.side == 128
    np.testing.assert_allclose(there.box, cache.box / 2, rtol=1e-6)
    for row in range(len(there)):
        x, y, w, h = there.box[row]
        np.testing.assert_allclose(_bright_box(there.windows[row]), [x, y, x + w, y + h], atol=2.0)
    sampler = PairSampler(there, PLAIN, seed=1)
    np.testing.assert_allclose(_bright_box(sampler.sample(0).search), sampler.sample(0).box, atol=4)
    size = path.stat().st_size
    few = pack_cache(cache, path, size // 3, side=128, quality=95)
    assert 3 <= few < len(cache) // 2 and path.stat().st_size < size // 2
    assert set(unpack_cache(path, tmp_path / "few").sequence.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="a window takes"):
        pack_cache(cache, path, 10)
    with pytest.raises(ValueError, match="side must be 64 to 256"):
        pack_cache(cache, path, 10**7, side=400)
    (tmp_path / "no").write_text("nothing")
    with pytest.raises(DatasetError, match="no: no packed pair cache"):
        unpack_cache(tmp_path / "no", tmp_path / "empty")
