# SPDX-License-Identifier: Apache-2.0
"""The Kalman filter over ground against batch least squares, and by hand."""

import math

import numpy as np
import pytest

from mlkd_ros.tracking.global_motion import Motion
from mlkd_ros.tracking.kinematics import Kinematics, Measurement
from mlkd_ros.tracking.settings import BeliefSettings

BELIEF = BeliefSettings(wander=3.0, wander_time=0.8, jitter=0.1)
SIZE = 40.0


def transition(seconds):
    """F and Q of the integrated Ornstein-Uhlenbeck process, by numerical integration."""
    time, drive = BELIEF.wander_time, (BELIEF.wander * SIZE) ** 2
    kept = math.exp(-seconds / time)
    matrix = np.array([[1.0, time * (1 - kept)], [0.0, kept]])
    # dv = -v/T dt + sqrt(2 drive / T) dW: what noise at time s does to place and velocity at t.
    s = (np.arange(20000) + 0.5) / 20000 * seconds
    left = np.exp(-(seconds - s) / time)
    response = np.stack((time * (1 - left), left))
    return matrix, 2 * drive / time * (response @ response.T) * seconds / len(s)


def batch(times, places, variance):
    """Mean and covariance of the last state, from all measurements at once."""
    n = len(times)
    prior = np.diag([variance, (BELIEF.wander * SIZE) ** 2])
    rows, values = [], []

    def add(matrix, value, covariance):
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        rows.append(root @ matrix)
        values.append(root @ value)

    first = np.zeros((2, 2 * n))
    first[:, :2] = np.eye(2)
    add(first, np.array([places[0], 0.0]), prior)
    for i in range(1, n):
        step, noise = transition(times[i] - times[i - 1])
        link = np.zeros((2, 2 * n))
        link[:, 2 * i - 2 : 2 * i], link[:, 2 * i : 2 * i + 2] = -step, np.eye(2)
        add(link, np.zeros(2), noise)
        seen = np.zeros((1, 2 * n))
        seen[0, 2 * i] = 1.0
        add(seen, np.array([places[i]]), np.array([[variance]]))
    a, b = np.vstack(rows), np.concatenate(values)
    covariance = np.linalg.inv(a.T @ a)
    return (covariance @ a.T @ b)[-2:], covariance[-2:, -2:]


@pytest.mark.parametrize("rate", [15, 30, 120])
def test_it_is_the_least_squares_estimate_from_all_measurements(rate):
    rng = np.random.default_rng(rate)
    times = np.cumsum(rng.uniform(0.5, 1.5, 12) / rate)
    xs, ys = np.cumsum(rng.normal(0, 5, (2, 12)), axis=1)
    variance = 9.0
    filtered = Kinematics(BELIEF, Measurement(xs[0], ys[0], variance), SIZE)
    for i in range(1, 12):
        filtered.predict(times[i] - times[i - 1], SIZE)
        filtered.update(Measurement(xs[i], ys[i], variance))
    (x, vx), covariance = batch(times, xs, variance)
    (y, vy), _ = batch(times, ys, variance)
    assert filtered.place == pytest.approx((x, y), rel=1e-4)
    assert (filtered.vx, filtered.vy) == pytest.approx((vx, vy), rel=1e-3, abs=1e-2)
    assert (filtered.pp, filtered.pv, filtered.vv) == pytest.approx(
        (covariance[0, 0], covariance[0, 1], covariance[1, 1]), rel=1e-3
    )


def test_two_short_steps_are_one_long_one():
    one, two = (Kinematics(BELIEF, Measurement(10.0, 20.0, 4.0), SIZE) for _ in range(2))
    one.vx = two.vx = 50.0
    one.predict(0.4, SIZE)
    for _ in range(16):
        two.predict(0.025, SIZE)
    assert two.place == pytest.approx(one.place)
    assert (two.pp, two.pv, two.vv) == pytest.approx((one.pp, one.pv, one.vv))


def test_a_velocity_fades_and_never_gets_less_sure_than_it_ever_was():
    target = Kinematics(BELIEF, Measurement(0.0, 0.0, 1.0), SIZE)
    target.vx, target.vv = 100.0, 1.0
    for _ in range(300):
        target.predict(0.1, SIZE)
    assert target.vx == pytest.approx(0.0, abs=1e-6)
    assert target.x == pytest.approx(100.0 * BELIEF.wander_time)
    assert math.sqrt(target.vv) == pytest.approx(BELIEF.wander * SIZE)


def test_the_camera_carries_the_target_along_and_turns_its_way():
    target = Kinematics(BELIEF, Measurement(100.0, 50.0, 4.0), SIZE)
    target.vx, target.vv = 10.0, 1.0
    turned = Motion(tx=200.0, ty=-30.0, a=0.0, b=2.0, variance=3.0, seen=True)
    still, moved = target.x + 10.0 * BELIEF.wander_time * (1 - math.exp(-0.1 / 0.8)), target
    moved.predict(0.1, SIZE, turned)
    assert moved.place == pytest.approx((200.0 - 2 * 50.0, -30.0 + 2 * still))
    assert moved.vx == pytest.approx(0.0, abs=1e-9) and moved.vy > 15.0
    unmoved = Kinematics(BELIEF, Measurement(100.0, 50.0, 4.0), SIZE)
    unmoved.vv = 1.0
    unmoved.predict(0.1, SIZE)
    assert moved.pp == pytest.approx(4 * unmoved.pp + 3.0)


def test_another_resolution_is_the_same_scene():
    target = Kinematics(BELIEF, Measurement(100.0, 50.0, 4.0), SIZE)
    target.vx, target.vy = 8.0, 6.0
    target.rescale(2.0, 0.5)
    assert (target.x, target.y, target.vx, target.vy) == (200.0, 25.0, 16.0, 3.0)
    assert target.pp == 4.0  # the geometric mean of both scales is 1
