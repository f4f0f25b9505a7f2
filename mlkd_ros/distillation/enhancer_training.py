# SPDX-License-Identifier: Apache-2.0
"""Training of the enhancer on real dark images, without labels or references."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..data.sequences import DatasetError, list_images, read_image
from .config import ConfigError, EnhancerConfig
from .enhancer import CurveNetwork, save_enhancer, zero_reference_losses


def dark_image_paths(data: Path) -> list[Path]:
    """Images in ``data/lowlight``, and those marked ``night`` in ``data/annotations.jsonl``.

    DatasetError names what is missing.
    """
    paths = list(list_images(data / "lowlight"))
    annotations = data / "annotations.jsonl"
    if annotations.exists():
        for line in annotations.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("night"):
                paths.append(data / record["file"])
    return paths


def load_dark_images(data: Path) -> list[np.ndarray]:
    """All dark images as uint8 BGR; DatasetError names one that does not decode."""
    images = [read_image(path) for path in dark_image_paths(data)]
    if not images:
        raise DatasetError(f"{data}: holds no dark image")
    return images


def random_crop(image: np.ndarray, config: EnhancerConfig, rng: np.random.Generator) -> np.ndarray:
    """A ``(side, side, 3)`` uint8 crop at a random place and scale, perhaps mirrored."""
    scale = float(np.exp(rng.uniform(-1, 1) * -np.log(config.min_scale)))
    height, width = image.shape[:2]
    window = min(round(config.side * scale), height, width)
    x = int(rng.integers(width - window + 1))
    y = int(rng.integers(height - window + 1))
    crop = cv2.resize(
        image[y : y + window, x : x + window], (config.side, config.side),
        interpolation=cv2.INTER_AREA if window > config.side else cv2.INTER_LINEAR,
    )  # fmt: skip
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def make_batch(images: list[np.ndarray], config: EnhancerConfig, step: int) -> Tensor:
    """Batch ``step``: RGB 0..1, ``(batch, 3, side, side)``; a pure function of seed and step."""
    rng = np.random.default_rng((config.seed, step))
    chosen = rng.integers(len(images), size=config.batch)
    crops = np.stack([random_crop(images[i], config, rng) for i in chosen])
    return torch.from_numpy(np.ascontiguousarray(crops[..., ::-1])).permute(0, 3, 1, 2) / 255.0


class EnhancerTrainer:
    """The loop: Adam on the four zero-reference losses, a checkpoint that resumes exactly."""

    def __init__(
        self, config: EnhancerConfig, images: list[np.ndarray], folder: Path, device: str = "cpu"
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.images, self.folder = config, images, folder
        self.device = torch.device(device)
        network = CurveNetwork(
            config.channels, config.iterations, config.downscale, padding="replicate"
        )
        layer: Any
        for layer in network.layers:
            nn.init.normal_(layer.weight, 0.0, 0.02)  # curves near zero: near the identity
            nn.init.zeros_(layer.bias)
        self.network = network.to(self.device)
        self.optimizer = torch.optim.Adam(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    def train_step(self) -> dict[str, float]:
        """One optimiser step on the batch of the current step; returns its losses."""
        config = self.config
        batch = make_batch(self.images, config, self.step).to(self.device)
        losses = zero_reference_losses(self.network, batch, config.exposure)
        weights = vars(config)
        terms = [weights[f"{name}_weight"] * loss for name, loss in losses.items()]
        total = torch.stack(terms).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        figures = {"loss": total, **losses}
        return {name: float(value.detach()) for name, value in figures.items()}

    def run(self, progress: bool = True) -> None:
        """Train to the end, resuming from ``last.pt`` where there is one."""
        from tqdm import tqdm

        self.resume()
        began = time.monotonic()
        steps = range(self.step, self.config.steps)
        for _ in tqdm(steps, initial=self.step, total=self.config.steps, disable=not progress):
            figures = self.train_step()
            if self.step % self.config.log_every == 0:
                self._log({"seconds": time.monotonic() - began, **figures})
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self.save()

    def _log(self, figures: dict[str, float]) -> None:
        with (self.folder / "log.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["step", *figures])
            writer.writerow([self.step, *(f"{value:.6g}" for value in figures.values())])

    def save(self) -> None:
        """Write ``last.pt`` in one step."""
        state = {
            "step": self.step, "config": self.config.to_dict(),
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        torch.save(state, self.folder / "last.pt.part")
        os.replace(self.folder / "last.pt.part", self.folder / "last.pt")

    def resume(self) -> None:
        """Continue from ``last.pt`` if it exists. ConfigError when it is of another experiment."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] != self.config.to_dict():
            raise ConfigError(f"{path}: is of another experiment: use another run folder")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train_enhancer(
    config: EnhancerConfig, data: Path, folder: Path, device: str = "cpu", progress: bool = True
) -> Path:
    """Train on the dark images of ``data``; returns the path of ``enhancer.safetensors``."""
    images = load_dark_images(data)
    trainer = EnhancerTrainer(config, images, folder, device)
    trainer.run(progress)
    path = folder / "enhancer.safetensors"
    provenance = {"config": config.to_dict(), "images": len(images), "torch": torch.__version__}
    save_enhancer(trainer.network, path, provenance)
    return path
