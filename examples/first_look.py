#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A first look, without ROS
# Renders a few seconds of a night flight, tracks its target with the student that ships, scores the
# boxes against the exact truth and plots both. Each cell can be run by itself in an editor that
# knows `# %%`, or all of them: `python first_look.py [frames]`.

# %%
import sys

import matplotlib
import numpy as np

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.tracking import load_tracker
from mlkd_ros.tracking.geometry import iou

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FRAMES = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 150
RATE = 30.0

# %% [markdown]
# A flight is made anew for every seed: town, traffic, lamps, the camera's noise. `targets` holds
# for each object its name, box (x, y, w, h), the share of it that is seen, and its kind.

# %%
flight = NightFlight("occlusion", 3, (640, 360), RATE)
frames = [flight.render(200 + index) for index in range(FRAMES)]
truth = [frame.targets[0][1] for frame in frames]
seen = np.array([frame.targets[0][2] for frame in frames])

# %% [markdown]
# Two calls are all there is: `init` with a box, then `update` with every image.

# %%
tracker = load_tracker()
tracker.init(frames[0].image, truth[0], 0.0)
results = [tracker.update(one.image, index / RATE) for index, one in enumerate(frames[1:], 1)]

# %%
overlap = np.array(
    [iou(r.box, t) if r.box is not None else 0.0 for r, t in zip(results, truth[1:], strict=True)]
)
confidence = np.array([result.confidence if result.box is not None else 0.0 for result in results])
visible = seen[1:] > 0.5
print(f"engine            {tracker.engine_name}")
print(f"frames            {len(results)}, the target in sight in {visible.sum()}")
print(f"mean IoU in sight {overlap[visible].mean():.3f}")
print(f"boxes out of sight {(confidence[seen[1:] < 0.1] > 0).sum()}")

# %%
times = np.arange(1, FRAMES) / RATE
figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
axes.fill_between(times, 0, 1, where=~visible, color="0.9", label="hidden")
axes.plot(times, overlap, label="IoU with the truth")
axes.plot(times, confidence, label="confidence")
axes.set(xlabel="seconds", ylim=(0, 1.02), title="occlusion, seed 3")
axes.legend(loc="lower right")
figure.savefig("first_look.png", dpi=120)
print("plot              first_look.png")
