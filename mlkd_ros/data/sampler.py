# SPDX-License-Identifier: Apache-2.0
"""Training pairs from pair caches: a template patch, a search patch, and where the target is in the
search patch.

Pair ``index`` of a sampler is a pure function of ``(caches, settings, seed, index)``: training
resumes exactly where it stopped, and neither the number of loader workers nor their timing changes
what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mlkd_ros.data.cache import PairCache
from mlkd_ros.data.codec import develop, sample_processing
from mlkd_ros.data.lowlight import (
    NightConditions,
    capture,
    sample_conditions,
    sample_high_gain,
)

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

TEMPLATE_SIDE = 127
SEARCH_SIDE = 255
#: Smaller search regions about the same centre, as flown when a target is where it was expected.
NEAR_SIDES = (159, 191)


@dataclass(frozen=True)
class SamplerSettings:
    """What pairs look like. Shifts are in pixels of the patch, scales are relative; all are
    half-widths of a uniform distribution, all probabilities are in 0..1.

    Attributes:
        group_weights: Share of each group of the caches (normalised); a group not named here is not
            sampled. Empty: all groups alike.
        max_gap: Largest distance of the two frames of a pair, in stored frames.
        negative: Probability that the search patch shows another object and not the template's.
        hidden: Probability that something covers the whole target in the search patch: a negative
            pair in the target's own surroundings, from which presence is learned.
        covered: Probability that something covers a part of the target, up to a half.
        template_shift: Template, displacement of the object from the centre.
        template_scale: Template, change of the side of the window.
        search_shift: Search, displacement of the object from the centre.
        search_scale: Search, change of the side of the window.
        aspect: Change of one axis of a patch against the other.
        flip: Probability of mirroring both patches.
        grey: Probability of making both patches grey.
        search_blur: Probability of blurring the search patch.
        coarse: Probability that both patches come from a coarser sensor (a small target, enlarged).
        max_grain: Largest number of patch pixels that a pixel of that sensor covers.
        dark: Probability of darkening a pair that is not from real night frames.
        severity: Of the darkness, see :func:`mlkd_ros.data.lowlight.sample_conditions`.
        brighter_template: Probability that a darkened pair's template was taken in more light.
        night_noise: Probability of mild exposure change and noise on a pair of real night frames.
        high_gain: Share of the darkened pairs that are taken by a small camera at high gain, see
            :func:`mlkd_ros.data.lowlight.sample_high_gain`.
        developed: Share of the darkened pairs that go through a camera's denoising and sharpening.
        coded: Probability that the patches are cut from the coded windows of the cache, where it
            has some: a dark stream behind denoising and H.264. These are not darkened again.
        exclude: Sequences that are not sampled, by name: kept for choosing between students.
        loose: Sequences whose name begins so have loose boxes: a teacher's that agrees counts.
        fewer: Sequences whose name begins so are drawn this many times as often (loose boxes).
        keep_clean: Also return the patches before darkening, for a teacher.
    """

    group_weights: Mapping[str, float] = field(default_factory=dict)
    max_gap: int = 50
    negative: float = 0.15
    hidden: float = 0.0
    covered: float = 0.0
    template_shift: float = 4.0
    template_scale: float = 0.05
    search_shift: float = 64.0
    search_scale: float = 0.18
    aspect: float = 0.04
    flip: float = 0.5
    grey: float = 0.1
    search_blur: float = 0.2
    coarse: float = 0.5
    max_grain: float = 3.5
    dark: float = 0.7
    severity: float = 1.0
    brighter_template: float = 0.2
    night_noise: float = 0.5
    high_gain: float = 0.0
    developed: float = 0.0
    coded: float = 0.0
    exclude: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    fewer: Mapping[str, float] = field(default_factory=dict)
    keep_clean: bool = False


@dataclass(frozen=True)
class TrainingPair:
    """One sample.

    Attributes:
        template: uint8 ``(127, 127, 3)`` BGR.
        search: uint8 ``(255, 255, 3)`` BGR.
        box: float32 ``(4,)`` target as ``x0, y0, x1, y1`` in pixels of the search patch, its origin
            the outer corner of the first pixel; zeros in a negative pair.
        positive: Whether the template's object is the one in the search patch.
        darkened: Whether the patches went through the low-light camera.
        night: Whether the search patch is a real night picture.
        clean_template: The template before darkening, or None if not asked for.
        clean_search: The search patch before darkening, or None if not asked for.
        loose: Whether the box is known to be loose.
    """

    template: np.ndarray
    search: np.ndarray
    box: np.ndarray
    positive: bool
    darkened: bool
    night: bool
    clean_template: np.ndarray | None = None
    clean_search: np.ndarray | None = None
    loose: bool = False


@dataclass(frozen=True)
class _Patch:
    """A patch, the box in it and the part of it that is picture, not padding (x0, y0, x1, y1); and
    the same patch of the coded window, if asked for.
    """

    image: np.ndarray
    box: np.ndarray
    valid: np.ndarray
    coded: np.ndarray | None = None


class PairSampler:
    """Draws training pairs from one or several pair caches."""

    def __init__(
        self,
        caches: PairCache | Sequence[PairCache],
        settings: SamplerSettings | None = None,
        seed: int = 0,
    ) -> None:
        """Index the caches; fast, as windows are not read.

        Raises:
            ValueError: A group in the settings' weights is in no cache, or no weight is positive.
        """
        self.caches = [caches] if isinstance(caches, PairCache) else list(caches)
        self.settings = settings or SamplerSettings()
        self.seed = seed
        self._check_excluded()
        self._tables = [_Table(cache, self._draws(cache)) for cache in self.caches]
        self._groups, self._group_edges = self._weigh_groups()

    def _check_excluded(self) -> None:
        names = {name for cache in self.caches for name in cache.names}
        missing = set(self.settings.exclude) - names
        if missing:
            raise ValueError(f"exclude names {sorted(missing)[0]!r}, which is in no cache")

    def _draws(self, cache: PairCache) -> np.ndarray:
        """How often each sequence of a cache is drawn, relative to the others, ``(sequences,)``."""
        factors = np.ones(len(cache.names))
        for number, name in enumerate(cache.names):
            for prefix, factor in self.settings.fewer.items():
                if name.rsplit("/", 1)[-1].startswith(prefix):
                    factors[number] = factor
            if name in self.settings.exclude:
                factors[number] = 0.0
        return factors

    def _weigh_groups(self) -> tuple[list[tuple[int, str]], np.ndarray]:
        """List (cache, group) choices and the cumulative share of each."""
        found = [
            (number, group) for number, table in enumerate(self._tables) for group in table.groups
        ]
        names = {group for _, group in found}
        wanted = dict(self.settings.group_weights) or dict.fromkeys(names, 1.0)
        unknown = set(wanted) - names
        if unknown:
            raise ValueError(
                f"group_weights names {sorted(unknown)}, the caches hold {sorted(names)}"
            )
        # A group spread over caches keeps its weight: each part gets its share of the windows.
        sizes = np.array(
            [self._tables[number].groups[group].size for number, group in found], np.float64
        )
        totals = {
            name: sum(s for (_, group), s in zip(found, sizes, strict=True) if group == name)
            for name in names
        }
        shares = [
            wanted.get(group, 0.0) * s / totals[group]
            for (_, group), s in zip(found, sizes, strict=True)
        ]
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(
                f"group_weights {wanted} must be zero or more, and one of them positive"
            )
        return found, np.cumsum(shares) / sum(shares)

    def sample(self, index: int) -> TrainingPair:
        """Make pair ``index`` (any integer from 0 on)."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, index))))
        positive = rng.random() >= self.settings.negative
        number, row = self._choose(rng)
        if positive:
            other, other_row = number, self._tables[number].partner(row, self.settings.max_gap, rng)
        else:
            other, other_row = self._choose_other(number, row, rng)
        flip = rng.random() < self.settings.flip
        coded = self.settings.coded > 0 and rng.random() < self.settings.coded
        template = self._template_patch(number, row, flip, rng, coded)
        search = self._search_patch(other, other_row, flip, rng, coded)
        if positive and self.settings.hidden + self.settings.covered > 0:
            search, positive = self._occlude(search, rng)
        night = self._is_night(other, other_row)
        pair = self._finish(template, search, positive, (self._is_night(number, row), night), rng)
        return replace(pair, loose=self._is_loose(other, other_row))

    def _choose(self, rng: np.random.Generator) -> tuple[int, int]:
        number, group = self._groups[
            int(np.searchsorted(self._group_edges, rng.random(), side="right"))
        ]
        return number, self._tables[number].groups[group].draw(rng)

    def _choose_other(self, number: int, row: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw an object of another sequence."""
        other, other_row = self._choose(rng)
        for _ in range(20):
            sequences = self.caches[number].sequence[row], self.caches[other].sequence[other_row]
            if other != number or sequences[0] != sequences[1]:
                return other, other_row
            other, other_row = self._choose(rng)
        raise ValueError("negative pairs need at least two sequences in the sampled groups")

    def _occlude(self, search: _Patch, rng: np.random.Generator) -> tuple[_Patch, bool]:
        """Put a piece of another picture over the target; False when nothing of it is left."""
        draw = rng.random()
        if draw >= self.settings.hidden + self.settings.covered:
            return search, True
        whole = draw < self.settings.hidden
        cover = _cover(search.box, whole, rng)
        x0, y0, x1, y1 = np.clip(np.rint(cover), 0, SEARCH_SIDE).astype(int)
        if x1 - x0 < 2 or y1 - y0 < 2:
            return search, True
        number, row = self._choose(rng)
        other = self.caches[number].windows[row]
        left, top = rng.integers(0, other.shape[0] // 2, 2)
        side = int(rng.integers(16, other.shape[0] // 2))
        piece = cv2.resize(other[top : top + side, left : left + side], (x1 - x0, y1 - y0))
        piece = cv2.convertScaleAbs(piece, alpha=float(rng.uniform(0.2, 1.2)))
        image = search.image.copy()
        image[y0:y1, x0:x1] = piece
        coded = search.coded
        if coded is not None:
            # As dark as what it covers.
            level = coded.mean() / max(float(search.image.mean()), 1.0)
            coded = coded.copy()
            coded[y0:y1, x0:x1] = cv2.convertScaleAbs(piece, alpha=min(level, 1.0))
        return replace(search, image=image, coded=coded), not whole

    def _is_loose(self, number: int, row: int) -> bool:
        cache = self.caches[number]
        name: str = cache.names[cache.sequence[row]].rsplit("/", 1)[-1]
        return name.startswith(tuple(self.settings.loose))

    def _is_night(self, number: int, row: int) -> bool:
        cache = self.caches[number]
        return bool(cache.night[cache.sequence[row]])

    def _template_patch(
        self, number: int, row: int, flip: bool, rng: np.random.Generator, coded: bool
    ) -> _Patch:
        rules = self.settings
        return self._patch(
            number, row, TEMPLATE_SIDE, rules.template_shift, rules.template_scale, flip, rng, coded
        )

    def _search_patch(
        self, number: int, row: int, flip: bool, rng: np.random.Generator, coded: bool
    ) -> _Patch:
        rules = self.settings
        return self._patch(
            number, row, SEARCH_SIDE, rules.search_shift, rules.search_scale, flip, rng, coded
        )

    def _patch(
        self,
        number: int,
        row: int,
        side: int,
        shift: float,
        scale: float,
        flip: bool,
        rng: np.random.Generator,
        coded: bool,
    ) -> _Patch:
        """Cut a patch around an object with one resampling."""
        cache = self.caches[number]
        x, y, w, h = cache.box[row].tolist()
        context = cache.settings.side / cache.settings.context
        aspect = 1 + self.settings.aspect * rng.uniform(-0.5, 0.5)
        zoom = (
            (1 + scale * rng.uniform(-1, 1)) * context / TEMPLATE_SIDE
        )  # window pixels per patch pixel
        step = np.array([zoom * aspect, zoom / aspect])
        centre = np.array([x + w / 2, y + h / 2]) + step * rng.uniform(-shift, shift, 2)
        start = centre - step * side / 2
        corners = np.array([[x, y, x + w, y + h], cache.valid[row]], np.float64).reshape(2, 2, 2)
        box, valid = ((corners - start) / step).reshape(2, 4)
        matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
        if flip:
            matrix[0] = -step[0], 0, start[0] + step[0] * side
            box[[0, 2]], valid[[0, 2]] = side - box[[2, 0]], side - valid[[2, 0]]
        matrix[:, 2] += (
            0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
        )  # from pixel corners to pixel centres
        fill = cache.fill[row].tolist()
        image = _warped(cache.windows[row], matrix, side, fill)
        again = None
        if coded and cache.coded is not None and not cache.still[cache.sequence[row]]:
            again = _warped(cache.coded[row], matrix, side, fill)
        return _Patch(image, box, np.clip(np.rint(valid), 0, side).astype(int), again)

    def _finish(
        self,
        template: _Patch,
        search: _Patch,
        positive: bool,
        night: tuple[bool, bool],
        rng: np.random.Generator,
    ) -> TrainingPair:
        """Change how the two patches look: sensor, colour, blur, darkness."""
        rules = self.settings
        grain = (
            float(np.exp(rng.uniform(0, np.log(rules.max_grain))))
            if rng.random() < rules.coarse
            else 1.0
        )
        grey = rng.random() < rules.grey
        images = [
            _coarse(_grey(patch.image) if grey else patch.image, grain)
            for patch in (template, search)
        ]
        if rng.random() < rules.search_blur:
            images[1] = _blur(images[1], rng)
        cameras = self._cameras(night, rng)
        both_coded = template.coded is not None and search.coded is not None
        if both_coded:
            dark = [
                _coarse(_grey(c) if grey else c, grain)
                for c in (template.coded, search.coded)
                if c is not None
            ]
        else:
            dark = self._taken(images, cameras, rng)
        clean = [
            _enlarge(image, patch) for image, patch in zip(images, (template, search), strict=True)
        ]
        dark = [
            c if d is i else _enlarge(d, patch)
            for d, i, c, patch in zip(dark, images, clean, (template, search), strict=True)
        ]
        box = search.box.astype(np.float32) if positive else np.zeros(4, np.float32)
        return TrainingPair(
            dark[0],
            dark[1],
            box,
            positive,
            darkened=(both_coded or cameras[1] is not None) and not night[1],
            night=night[1],
            clean_template=clean[0] if rules.keep_clean else None,
            clean_search=clean[1] if rules.keep_clean else None,
        )

    def _taken(
        self,
        images: list[np.ndarray],
        cameras: tuple[NightConditions | None, NightConditions | None],
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """The patches as the cameras take them; itself where there is no camera."""
        taken = [
            image if c is None else capture(image, c, rng)
            for image, c in zip(images, cameras, strict=True)
        ]
        if self.settings.developed > 0 and rng.random() < self.settings.developed:
            camera = sample_processing(rng)
            taken = [
                t if t is image else develop(t.astype(np.float32), camera)
                for t, image in zip(taken, images, strict=True)
            ]
        return taken

    def _cameras(
        self, night: tuple[bool, bool], rng: np.random.Generator
    ) -> tuple[NightConditions | None, NightConditions | None]:
        """Draw the camera of template and search; None leaves a patch as it is."""
        rules = self.settings
        dark = sample_conditions(rng, rules.severity) if rng.random() < rules.dark else None
        if dark is not None and rules.high_gain > 0 and rng.random() < rules.high_gain:
            dark = sample_high_gain(rng)
        mild = _mild_conditions(rng) if rng.random() < rules.night_noise else None
        template, search = (mild if taken_at_night else dark for taken_at_night in night)
        if template is not None and template is dark:
            if rng.random() < 0.5:
                template = replace(template, motion_blur=(0.0, 0.0))
            if rng.random() < rules.brighter_template:
                brighter = template.exposure * float(rng.uniform(1.5, 6.0))
                template = replace(template, exposure=min(brighter, 1.0 / template.gain))
        return template, search


class _Group:
    """The windows of a group; sequences are drawn by the root of their size."""

    def __init__(self, rows: np.ndarray, sequence: np.ndarray, draws: np.ndarray) -> None:
        order = np.argsort(sequence[rows], kind="stable")
        self._rows = rows[order]
        self._starts = np.flatnonzero(np.r_[True, np.diff(sequence[self._rows]) != 0])
        self._sizes = np.diff(np.r_[self._starts, len(rows)])
        factors = draws[sequence[self._rows[self._starts]]]
        self._edges = np.cumsum(np.sqrt(self._sizes) * factors)
        self.size = len(rows)

    def draw(self, rng: np.random.Generator) -> int:
        which = int(np.searchsorted(self._edges, rng.random() * self._edges[-1], side="right"))
        return int(self._rows[self._starts[which] + rng.integers(self._sizes[which])])


class _Table:
    """Looks up groups and the other frames of an object in one cache."""

    def __init__(self, cache: PairCache, draws: np.ndarray) -> None:
        used = draws[cache.sequence] > 0
        group_of_row = np.array(cache.groups)[cache.sequence]
        self.groups = {
            str(name): _Group(np.flatnonzero((group_of_row == name) & used), cache.sequence, draws)
            for name in np.unique(group_of_row[used])
        }
        self._frame = cache.frame
        self._order = np.lexsort((cache.frame, cache.object, cache.sequence))
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order))
        keys = np.stack([cache.sequence, cache.object])[:, self._order]
        starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=1) != 0).any(axis=0)])
        ends = np.r_[starts[1:], len(self._order)]
        self._start = np.repeat(starts, ends - starts)
        self._end = np.repeat(ends, ends - starts)

    def partner(self, row: int, max_gap: int, rng: np.random.Generator) -> int:
        """Draw a row of the same object within the gap; itself where there is no other."""
        place = self._place[row]
        track = self._order[self._start[place] : self._end[place]]
        frames = self._frame[track]
        low = np.searchsorted(frames, self._frame[row] - max_gap, side="left")
        high = np.searchsorted(frames, self._frame[row] + max_gap, side="right")
        return int(track[rng.integers(low, high)])


def _warped(window: np.ndarray, matrix: np.ndarray, side: int, fill: Sequence[float]) -> np.ndarray:
    return cv2.warpAffine(
        window,
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


def _cover(box: np.ndarray, whole: bool, rng: np.random.Generator) -> np.ndarray:
    """An occluder (x0, y0, x1, y1) over all of a box and some more, or over up to a half of it."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    cover = np.array([x0, y0, x1, y1]) + np.array([-width, -height, width, height]) * rng.uniform(
        0.03, 0.6, 4
    )
    if not whole:
        side, share = int(rng.integers(4)), rng.uniform(0.15, 0.5)
        length = width if side % 2 == 0 else height
        # The occluder's side `side` (left, top, right, bottom) is moved into the box.
        cover[side] = box[(side + 2) % 4] + (-share * length if side < 2 else share * length)
    return cover


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _coarse(image: np.ndarray, grain: float) -> np.ndarray:
    """Reduce a patch to the pixels of a sensor on which ``grain`` patch pixels are one."""
    side = round(image.shape[0] / grain)
    return (
        image
        if side == image.shape[0]
        else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    )


def _enlarge(image: np.ndarray, patch: _Patch) -> np.ndarray:
    """Bring a picture to the side of its patch; flatten padding, as trackers pad dark frames."""
    side = patch.image.shape[0]
    if image.shape[0] != side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    x0, y0, x1, y1 = patch.valid
    strips = [np.s_[:y0, :], np.s_[y1:, :], np.s_[y0:y1, :x0], np.s_[y0:y1, x1:]]
    strips = [strip for strip in strips if image[strip].size]
    if strips:
        colour = np.concatenate([image[strip].reshape(-1, 3) for strip in strips]).mean(axis=0)
        image = image.copy() if image is patch.image else image
        for strip in strips:
            image[strip] = np.rint(colour)
    return image


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smear along a random line of up to 9 patch pixels, or defocus a little."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 2.0)))
    size = 2 * int(rng.integers(1, 5)) + 1
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (size // 2)
    middle = np.array([size // 2, size // 2])
    ends = [tuple(int(v) for v in np.rint(middle + sign * reach)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _mild_conditions(rng: np.random.Generator) -> NightConditions:
    """A small change of exposure and a little noise, for pictures already taken at night."""
    return NightConditions(
        exposure=float(rng.uniform(0.6, 1.3)),
        full_well=float(10 ** rng.uniform(4.0, 4.8)),
        read_noise=float(rng.uniform(1.0, 6.0)),
        noise_grain=float(rng.uniform(0.0, 1.0)),
        chroma_noise=float(rng.uniform(0.2, 1.0)),
    )


class PairDataset:
    """A map-style dataset over pairs ``start .. start + count`` of a sampler, for
    ``torch.utils.data.DataLoader``.

    With several processes, each takes every ``stride``-th pair: ``start`` is then offset by the
    process's rank.
    """

    def __init__(self, sampler: PairSampler, count: int, start: int = 0, stride: int = 1) -> None:
        """Take ``count`` pairs from ``start`` on, ``stride`` apart."""
        self.sampler = sampler
        self.count = count
        self.start = start
        self.stride = stride

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.count

    def __getitem__(self, index: int) -> TrainingPair:
        """Make a pair."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.sampler.sample(self.start + index * self.stride)


def collate_pairs(pairs: Sequence[TrainingPair]) -> dict[str, torch.Tensor]:
    """Batch pairs.

    Returns:
        ``template`` uint8 ``(B, 3, 127, 127)`` and ``search`` uint8 ``(B, 3, 255, 255)``, BGR,
        channels-last in memory; ``box`` float32 ``(B, 4)``; ``positive``, ``darkened`` and
        ``night`` bool ``(B,)``; and, where the sampler keeps them, ``clean_template`` and
        ``clean_search`` like the dark ones.
    """
    import torch

    def images(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    batch = {
        "template": images([pair.template for pair in pairs]),
        "search": images([pair.search for pair in pairs]),
        "box": torch.from_numpy(np.stack([pair.box for pair in pairs])),
    }
    for name in ("positive", "darkened", "night", "loose"):
        batch[name] = torch.tensor([bool(getattr(pair, name)) for pair in pairs])
    for name in ("clean_template", "clean_search"):
        if getattr(pairs[0], name) is not None:
            batch[name] = images([getattr(pair, name) for pair in pairs])
    return batch


def narrowed(batch: dict[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """A batch whose search patches are the middle ``side`` x ``side`` pixels of those of ``batch``,
    with the boxes in these; ``side`` is odd, as the patches' sides are.
    """
    margin = (batch["search"].shape[-1] - side) // 2
    inner = slice(margin, margin + side)
    narrow = {
        name: value[:, :, inner, inner]
        for name, value in batch.items()
        if name in ("search", "clean_search")
    }
    box = batch["box"] - float(margin)
    shown = batch["positive"][:, None]
    return {**batch, **narrow, "box": box.where(shown, batch["box"])}


def _one_thread(_: int) -> None:
    """Keep OpenCV from starting threads of its own in a loader worker."""
    cv2.setNumThreads(0)


def pair_loader(
    sampler: PairSampler,
    batch: int,
    count: int,
    *,
    start: int = 0,
    stride: int = 1,
    workers: int = 1,
) -> DataLoader[Any]:
    """Iterate over pairs ``start, start + stride, ...`` in batches of tensors (see
    :func:`collate_pairs`).

    Args:
        sampler: Where pairs come from.
        batch: Pairs a batch; an incomplete last batch is left out.
        count: Number of pairs.
        start: First pair; to resume after ``n`` batches, pass ``n * batch * stride`` more.
        stride: Distance of pairs, the number of processes in distributed training.
        workers: Loader processes; 0 makes the pairs in this process.
    """
    from torch.utils.data import DataLoader

    return DataLoader(
        PairDataset(sampler, count, start, stride),  # type: ignore[arg-type]
        batch_size=batch,
        shuffle=False,
        drop_last=True,
        num_workers=workers,
        collate_fn=collate_pairs,
        worker_init_fn=_one_thread,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
    )
