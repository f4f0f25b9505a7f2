# SPDX-License-Identifier: Apache-2.0
"""Every loss, gate and election against values by hand or an independent NumPy version."""

import math

import numpy as np
import pytest
import torch

from mlkd_ros.distillation import losses as L  # noqa: N812, short in formulas

RNG = np.random.default_rng(7)


def maps(*shape):
    return torch.from_numpy(RNG.normal(size=shape)).float()


# ------------------------------------------------------------------ NumPy, written from the text


def numpy_softmax(values, axis):
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def numpy_kdc(teacher, student, labels, temperature):
    """Sample by sample, cell by cell."""
    results = []
    for t, s, label in zip(teacher, student, labels, strict=True):
        sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
        for place in np.ndindex(label.shape):
            p = numpy_softmax(t[(slice(None), *place)] / temperature, 0)
            q = numpy_softmax(s[(slice(None), *place)] / temperature, 0)
            target = bool(label[place] == 1)
            sums[target] += temperature**2 * float((p * np.log(p / q)).sum())
            counts[target] += 1
        results.append(sum(0.5 * sums[k] / max(1, counts[k]) for k in (True, False)))
    return np.array(results)


def numpy_spread(reference):
    """(N,): root of the mean over the channels of the variance over the cells."""
    return np.array([np.sqrt(np.mean([channel.var() for channel in r])) for r in reference])


def numpy_l2(teacher, student):
    scale = numpy_spread(teacher)
    results = []
    for t, s, one in zip(teacher, student, scale, strict=True):
        cells = t[0].size
        p = numpy_softmax(t.reshape(len(t), -1) / one, 1)
        q = numpy_softmax(s.reshape(len(s), -1) / one, 1)
        results.append(np.mean((cells * (p - q)) ** 2))
    return np.array(results)


def numpy_spatial(teacher, student):
    teacher, student = teacher.mean(1), student.mean(1)
    results = []
    for t, s in zip(teacher, student, strict=True):
        total = 0.0
        height, width = t.shape
        for y in range(height):
            for x in range(width):
                for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0)):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        by_teacher = t[y, x] - t[y + dy, x + dx]
                        by_student = s[y, x] - s[y + dy, x + dx]
                        total += (by_teacher - by_student) ** 2
        results.append(total / t.size / t.var())
    return np.array(results)


def numpy_threshold(teacher, student):
    def mask(m):
        steep = L.STEEPNESS * (m - m.mean((2, 3), keepdims=True)) / m.std((2, 3), keepdims=True)
        return 1 / (1 + np.exp(-steep))

    return ((mask(teacher) - mask(student)) ** 2).mean((1, 2, 3))


def numpy_peaks(image):
    """Values of the local maxima, largest first, by comparing every cell with its neighbours."""
    height, width = image.shape
    peaks = []
    for y in range(height):
        for x in range(width):
            around = [
                image[v, u]
                for v in range(max(0, y - 1), min(height, y + 2))
                for u in range(max(0, x - 1), min(width, x + 2))
                if (v, u) != (y, x)
            ]
            if image[y, x] > max(around):
                peaks.append(image[y, x])
    return sorted(peaks, reverse=True)


# ------------------------------------------------------------------------ response distillation


def test_softened_kl_by_hand():
    teacher = torch.tensor([[0.0, 10.0]])[..., None]
    student = torch.tensor([[0.0, 0.0]])[..., None]
    p = 1 / (1 + math.exp(-1))  # softmax of (0, 10) / 10
    expected = 100 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert L.softened_kl(teacher, student, 10.0).item() == pytest.approx(expected, rel=1e-5)


def test_temperature_keeps_the_strength_of_the_gradient():
    """For a small difference d of the logits, T^2 KL_T is about d^2 / 8 whatever T."""
    teacher, student = torch.tensor([[[0.0], [0.2]]]), torch.zeros(1, 2, 1)
    values = [L.softened_kl(teacher, student, t).item() for t in (1.0, 10.0)]
    assert values == pytest.approx([0.2**2 / 8] * 2, rel=0.02)


def test_classification_distillation_equals_numpy():
    teacher, student = maps(3, 2, 2, 5, 5) * 4, maps(3, 2, 2, 5, 5) * 4
    labels = torch.from_numpy(RNG.integers(-1, 2, (3, 2, 5, 5)))
    labels[2] = 0  # a sample without target
    ours = L.classification_distillation(teacher, student, labels, 10.0)
    assert ours.numpy() == pytest.approx(
        numpy_kdc(teacher.numpy(), student.numpy(), labels.numpy(), 10.0), rel=1e-4
    )


def test_laplace_kl_is_the_integral_of_its_definition():
    x = np.linspace(-400, 400, 400001)
    for difference, width in ((3.0, 10.0), (25.0, 10.0), (-7.0, 4.0)):
        p = np.exp(-np.abs(x) / width) / (2 * width)
        q = np.exp(-np.abs(x - difference) / width) / (2 * width)
        expected = (p * np.log(p / q)).sum() * (x[1] - x[0])
        ours = L.laplace_kl(torch.tensor(difference), width).item()
        assert ours == pytest.approx(expected, rel=1e-4)


def test_regression_distillation_looks_at_target_cells_only():
    teacher, student = torch.zeros(2, 1, 4, 3, 3), torch.zeros(2, 1, 4, 3, 3)
    labels = torch.zeros(2, 1, 3, 3, dtype=torch.int64)
    labels[0, 0, 1, 1] = 1
    student[:, :, :, 0, 0] = 100.0  # background
    student[0, 0, :, 1, 1] = torch.tensor([10.0, 0.0, -20.0, 0.0])
    expected = (math.exp(-1) + (2 + math.exp(-2) - 1)) / 4
    ours = L.regression_distillation(teacher, student, labels, 10.0)
    assert ours.tolist() == pytest.approx([expected, 0.0])


def test_gate_is_exact_zero_where_the_teacher_is_not_better():
    parameter = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    teacher_loss, student_loss = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.6, 0.5, 0.4])
    result = L.gated(parameter**2, teacher_loss, student_loss)
    assert result.tolist() == [1.0, 0.0, 0.0]  # equal is not better
    result.sum().backward()
    assert parameter.grad.tolist() == [2.0, 0.0, 0.0]


# ---------------------------------------------------------------------- correlation-map losses


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (L.correlation_l2, numpy_l2),
        (L.correlation_spatial, numpy_spatial),
        (L.correlation_threshold, numpy_threshold),
    ],
)
def test_correlation_losses_equal_numpy(ours, reference):
    teacher, student = maps(3, 4, 6, 6) * 0.03, maps(3, 4, 6, 6) * 0.05
    assert ours(teacher, student).numpy() == pytest.approx(
        reference(teacher.double().numpy(), student.double().numpy()), rel=2e-3
    )


@pytest.mark.parametrize("kind", sorted(L.CORRELATION_LOSSES))
def test_correlation_losses_vanish_in_agreement_and_teach_elsewhere(kind):
    """S3 in particular: a hard threshold would pass no gradient."""
    teacher = maps(2, 3, 8, 8)
    same = teacher.clone().requires_grad_()
    L.CORRELATION_LOSSES[kind](teacher, same).sum().backward()
    assert same.grad.abs().max() < 1e-5
    student = maps(2, 3, 8, 8).requires_grad_()
    value = L.CORRELATION_LOSSES[kind](teacher, student)
    assert value.shape == (2,) and (value > 0).all()
    value.sum().backward()
    assert student.grad.abs().sum((1, 2, 3)).min() > 1e-3
    with torch.no_grad():
        smaller = L.CORRELATION_LOSSES[kind](teacher, student - 0.01 * student.grad.sign())
    assert (smaller < value).all()


@pytest.mark.parametrize("kind", sorted(L.CORRELATION_LOSSES))
def test_correlation_losses_do_not_depend_on_the_unit_of_the_maps(kind):
    teacher, student = maps(2, 3, 8, 8), maps(2, 3, 8, 8)
    loss = L.CORRELATION_LOSSES[kind]
    assert torch.allclose(loss(teacher, student), loss(teacher * 40, student * 40), rtol=1e-3)


def test_smooth_mask_is_nearly_the_hard_one():
    m = maps(2, 3, 15, 15)
    centred = m - m.mean((2, 3), keepdim=True)
    clear = centred.abs() > 0.5 * m.std((2, 3), keepdim=True)
    hard = (centred > 0).float()
    assert (L.response_mask(m) - hard)[clear].abs().max() < 0.01


def test_teachers_with_other_channels_are_compared_by_their_mean():
    teacher, student = maps(2, 5, 6, 6), maps(2, 3, 6, 6)
    for loss in L.CORRELATION_LOSSES.values():
        means = (m.mean(1, keepdim=True) for m in (teacher, student))
        assert torch.allclose(loss(teacher, student), loss(*means))


def test_correlation_loss_is_the_mean_over_branches():
    teacher, student = [maps(2, 3, 6, 6) for _ in range(2)], [maps(2, 3, 6, 6) for _ in range(2)]
    both = [L.correlation_l2(t, s) for t, s in zip(teacher, student, strict=True)]
    assert torch.allclose(L.correlation_loss("l2", teacher, student), (both[0] + both[1]) / 2)


# ------------------------------------------------------------------------------ mutual learning


def test_mutual_loss_by_hand():
    elected = torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]])  # standard deviation 1
    student = torch.tensor([[[[0.0, 2.0], [3.0, 2.0]]]])
    assert L.mutual_loss([student], [elected]).item() == pytest.approx(9 / 4, rel=1e-4)


def test_the_winner_gets_no_mutual_term_and_is_not_moved():
    students = [
        [maps(3, 2, 5, 5).requires_grad_(), maps(3, 2, 5, 5).requires_grad_()] for _ in "abc"
    ]
    winner = torch.tensor([0, 2, 0])
    losses = L.mutual_losses(students, winner)
    for number, loss in enumerate(losses):
        assert loss[winner == number].tolist() == [0.0] * int((winner == number).sum())
        assert (loss[winner != number] > 0).all()
    torch.stack(losses).sum().backward()
    for number, branches in enumerate(students):
        for branch in branches:
            gradient = branch.grad.abs().sum((1, 2, 3))
            assert (gradient[winner == number] == 0).all()
            assert (gradient[winner != number] > 0).all()


def test_mutual_losses_pull_to_the_winner_of_each_sample():
    a, b, c = ([maps(2, 2, 4, 4)] for _ in range(3))
    winner = torch.tensor([1, 2])
    losses = L.mutual_losses([a, b, c], winner)
    elected = [torch.stack((b[0][0], c[0][1]))]
    assert torch.allclose(losses[0], L.mutual_loss(a, elected))
    assert losses[1][1] == L.mutual_loss(b, elected)[1]


def test_local_maxima_equal_numpy():
    for image in RNG.normal(size=(20, 9, 9)):
        found = torch.from_numpy(image)[L.local_maxima(torch.from_numpy(image)[None])[0]]
        assert sorted(found.tolist(), reverse=True) == numpy_peaks(image)


def test_a_plateau_is_one_peak():
    image = torch.zeros(1, 6, 6)
    image[0, 2:4, 2:4] = 5.0
    image[0, 0, 5] = 3.0
    assert L.local_maxima(image)[0].sum() >= 2
    assert image[0][L.local_maxima(image)[0]].tolist().count(5.0) == 1


def test_peak_ratio_by_hand():
    def logit(p):
        return math.log(p / (1 - p))

    two = torch.full((1, 7, 7), -12.0)
    two[0, 1, 1], two[0, 5, 5] = logit(0.9), logit(0.3)
    two[0, 1, 2] = logit(0.8)  # beside the highest: no peak of its own, though second in value
    one = torch.full((1, 7, 7), -20.0)
    one[0, 3, 3] = logit(0.9)
    ratios = L.peak_ratio(torch.cat((two, one)))
    assert ratios[0].item() == pytest.approx(0.9 / 0.3, rel=1e-4)
    assert ratios[1].item() == pytest.approx(0.9 / L.EPSILON, rel=1e-3)


def test_peaks_are_two_dimensional():
    """Two rows of one ridge: in a flattened vector they would be two peaks."""
    ridge = torch.full((1, 5, 5), -12.0)
    ridge[0, 1, 2], ridge[0, 2, 2], ridge[0, 3, 2] = 1.0, 3.0, 2.0
    ridge[0, 4, 4] = 0.0
    expected = torch.sigmoid(torch.tensor(3.0)) / torch.sigmoid(torch.tensor(0.0))
    assert L.peak_ratio(ridge).item() == pytest.approx(expected.item(), rel=1e-5)


def test_saturated_maps_are_still_told_apart():
    sharp, contested = torch.full((2, 9, 9), -30.0)
    sharp[4, 4], contested[4, 4], contested[4, 7] = 40.0, 40.0, 39.0
    sharp[4, 5] = 39.0  # a shoulder
    ratios = L.peak_ratio(torch.stack((sharp, contested)))
    assert ratios[0] > 1e5 and ratios[1] == pytest.approx(1.0)


def test_election_differs_from_sample_to_sample_and_batch_election_does_not():
    ratios = torch.tensor([[3.0, 1.0, 9.0], [2.0, 5.0, 1.0], [1.0, 2.0, 8.0]])
    assert L.elect(ratios, "sample").tolist() == [0, 1, 0]
    assert L.elect(ratios, "batch").tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="election 'never'"):
        L.elect(ratios, "never")


# ------------------------------------------------------------------------------------- helpers


def test_resampling_keeps_places():
    """A ramp over the search patch reads the same at the cells of any grid."""

    def axis(cells, stride):
        return (torch.arange(cells) - cells // 2) * float(stride)

    def ramp(cells, stride):
        return axis(cells, stride).expand(1, 1, cells, cells).contiguous()

    for cells, stride in ((15, 16), (17, 8), (29, 8), (16, 16)):
        to_cells, to_stride = 13, 8
        ours = L.resample(ramp(cells, stride), axis(cells, stride), axis(to_cells, to_stride))
        assert torch.allclose(ours, ramp(to_cells, to_stride), atol=1e-3)
    same = ramp(15, 16)
    assert L.resample(same, axis(15, 16), axis(15, 16)) is same


def test_features_are_compared_in_units_of_the_reference_and_clamped():
    torch.manual_seed(1)
    reference = torch.randn(2, 3, 5, 5) * 7
    assert L.feature_loss(reference, reference).abs().max() == 0
    unit = L.spread(reference)
    half = (reference + 0.5 * unit).requires_grad_()
    loss = L.feature_loss(half, reference)
    assert loss.tolist() == pytest.approx([0.125, 0.125], rel=1e-4)  # 0.5^2 / 2
    assert torch.allclose(L.feature_loss(half * 40, reference * 40), loss, rtol=1e-4)
    loss.sum().backward()
    assert half.grad.abs().min() > 0
    far = (reference + 9 * unit).requires_grad_()
    lost = L.feature_loss(far, reference)
    assert lost.tolist() == pytest.approx([L.FEATURE_LIMIT] * 2)
    lost.sum().backward()
    assert far.grad.abs().max() == 0  # what noise has destroyed pulls at nothing
