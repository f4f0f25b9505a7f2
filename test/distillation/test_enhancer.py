# SPDX-License-Identifier: Apache-2.0
"""Enhancers: curves, losses without references, published files, training."""

import cv2
import numpy as np
import pytest
import torch

from mlkd_ros.cli import main
from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.distillation.config import ConfigError, EnhancerConfig
from mlkd_ros.distillation.enhancer import (
    CurveNetwork,
    DarkLighterNetwork,
    GammaEnhancer,
    colour_loss,
    enhance_image,
    exposure_loss,
    load_enhancer,
    save_enhancer,
    smoothness_loss,
    spatial_consistency_loss,
)
from mlkd_ros.distillation.enhancer_training import (
    EnhancerTrainer,
    dark_image_paths,
    load_dark_images,
)
from mlkd_ros.tracking import CheckpointError

SMALL = EnhancerConfig(
    steps=12, batch=2, side=64, channels=8, iterations=4, learning_rate=3e-3, save_every=4
)


def dark_images(count=3):
    rng = np.random.default_rng(1)
    return [cv2.resize(rng.integers(0, 50, (9, 12, 3), np.uint8), (120, 90)) for _ in range(count)]


def test_curves_are_applied_as_in_the_paper():
    network = CurveNetwork(iterations=3)
    rgb, curves = torch.rand(1, 3, 4, 4), torch.rand(1, 9, 4, 4) * 2 - 1
    x = rgb.numpy().copy()
    for step in range(3):
        a = curves.numpy()[:, 3 * step : 3 * step + 3]
        x = x + a * x * (x - 1)
    assert network.apply_curves(rgb, curves).numpy() == pytest.approx(x, abs=1e-6)


def test_curves_keep_black_white_and_the_order_of_grey_levels():
    network = CurveNetwork()
    levels = torch.linspace(0, 1, 64).expand(1, 3, 1, 64)
    out = network.apply_curves(levels, torch.full((1, 24, 1, 64), -0.9))
    assert out[0, 0, 0, 0] == 0 and out[0, 0, 0, -1] == pytest.approx(1)
    assert (out.diff(dim=3) >= 0).all() and (out >= levels).all()


def test_enhancers_take_and_give_bgr():
    """A curve for red only must come out in the last channel."""
    network = CurveNetwork(iterations=1)
    network.curves = lambda rgb: torch.stack([torch.full_like(rgb[:, 0], a) for a in (-1, 0, 0)], 1)
    patch = torch.full((1, 3, 5, 5), 51.0)
    assert network(patch)[0, :, 2, 2].tolist() == pytest.approx([51, 51, 255 * (0.2 + 0.16)])


def test_zero_reference_losses_by_hand():
    grey = torch.full((1, 3, 32, 32), 0.3)
    assert exposure_loss(grey, 0.5).item() == pytest.approx(0.04)
    assert colour_loss(grey).item() == pytest.approx(0.0, abs=1e-5)
    tinted = grey.clone()
    tinted[:, 0] += 0.2
    assert colour_loss(tinted).item() == pytest.approx((2 * 0.2**4) ** 0.5, rel=1e-3)
    assert spatial_consistency_loss(grey * 2, grey).item() == pytest.approx(0.0, abs=1e-9)
    step = grey.clone()
    step[..., 16:] += 0.3  # one of seven edges between regions of 4 x 4 pixels, in each row
    assert spatial_consistency_loss(step, grey).item() == pytest.approx(2 * 0.09 / 7, rel=1e-4)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 10
    assert smoothness_loss(ramp).item() == pytest.approx(2 * 0.01, rel=1e-4)


def test_baselines_and_images():
    image = np.full((20, 30, 3), 64, np.uint8)
    image[5:9] = 128
    assert (enhance_image(load_enhancer("identity"), image) == image).all()
    expected = np.rint(255 * (64 / 255) ** 0.5)
    assert enhance_image(load_enhancer("gamma:0.5"), image)[0, 0].tolist() == [expected] * 3
    assert isinstance(load_enhancer("gamma"), GammaEnhancer)


def published(kind):
    """State dicts with the names and shapes that are published."""
    if kind == "zerodcepp":
        network = CurveNetwork(separable=True, shared=True)
        parts = {"0": "depth_conv", "1": "point_conv"}
    else:
        network = CurveNetwork() if kind == "zerodce" else DarkLighterNetwork()
        parts = {}
    renamed = {}
    for name, value in network.state_dict().items():
        *module, parameter = name.split(".")
        if module[0] == "layers":
            middle = [parts[p] for p in module[2:]]
            renamed[".".join([f"e_conv{int(module[1]) + 1}", *middle, parameter])] = value
        else:
            renamed[f"e_conv{7 if module[0] == 'gain' else 8}.{parameter}"] = value
    return network.eval(), renamed


@pytest.mark.parametrize("kind", ["zerodce", "zerodcepp", "darklighter"])
def test_published_state_dicts_are_read(tmp_path, kind):
    torch.manual_seed(2)
    network, content = published(kind)
    content["e_conv2.weight" if kind != "zerodcepp" else "e_conv2.point_conv.weight"][0, 0] = 1e-30
    torch.save(content, tmp_path / "published.pth")
    loaded = load_enhancer(tmp_path / "published.pth")
    patch = torch.rand(1, 3, 40, 40) * 80
    assert torch.allclose(loaded(patch), network(patch), atol=1e-3)
    smallest = min(float(p[p != 0].abs().min()) for p in loaded.state_dict().values())
    assert smallest > 1e-20  # denormal numbers are gone
    if kind == "darklighter":
        with pytest.raises(ValueError, match="only curve networks"):
            load_enhancer(tmp_path / "published.pth", downscale=4)
    else:
        smaller = load_enhancer(tmp_path / "published.pth", downscale=4)
        assert smaller(patch).shape == patch.shape
        assert torch.equal(load_enhancer(f"{tmp_path / 'published.pth'}:4")(patch), smaller(patch))


def test_darklighter_removes_noise_and_raises_light():
    network = DarkLighterNetwork(iterations=2)
    for part in (network.gain, network.noise):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.constant_(part.bias, 0.3)
    x = torch.full((1, 3, 4, 4), 0.8)
    t = np.tanh(0.3)
    expected = ((0.8 - t) * (t + 1) - t) * (t + 1)
    assert network.enhance(x)[0, 0, 2, 2].item() == pytest.approx(expected, rel=1e-4)


def test_files_that_are_no_enhancer_are_named(tmp_path):
    torch.save({"backbone.weight": torch.zeros(2)}, tmp_path / "tracker.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    (tmp_path / "text.pth").write_text("no")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("tracker.pth", "tensor.pth", "text.pth", "text.safetensors", "missing.pth"):
        with pytest.raises(CheckpointError, match=name):
            load_enhancer(tmp_path / name)
    with pytest.raises(ValueError, match="gamma:-1"):
        load_enhancer("gamma:-1")


def test_saved_enhancers_come_back(tmp_path):
    network = CurveNetwork(channels=8, iterations=3, downscale=2)
    save_enhancer(network, tmp_path / "e.safetensors", {"images": 3})
    loaded = load_enhancer(tmp_path / "e.safetensors")
    patch = torch.rand(1, 3, 33, 47) * 90
    assert loaded.downscale == 2 and torch.equal(loaded(patch), network(patch))


def test_training_brightens_and_resumes_exactly(tmp_path):
    before = EnhancerTrainer(SMALL, dark_images(), tmp_path / "before").train_step()["exposure"]
    whole = EnhancerTrainer(SMALL, dark_images(), tmp_path / "whole")
    whole.run(progress=False)
    assert whole.train_step()["exposure"] < 0.8 * before

    broken = EnhancerTrainer(SMALL, dark_images(), tmp_path / "broken")
    for _ in range(4):
        broken.train_step()
    broken.save()
    broken.train_step()  # lost: killed before the next checkpoint
    resumed = EnhancerTrainer(SMALL, dark_images(), tmp_path / "broken")
    resumed.run(progress=False)
    again = EnhancerTrainer(SMALL, dark_images(), tmp_path / "again")
    again.run(progress=False)
    for a, b in zip(resumed.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    other = EnhancerTrainer(EnhancerConfig(seed=5), dark_images(), tmp_path / "again")
    with pytest.raises(ConfigError, match="another experiment"):
        other.resume()


def test_train_enhancer_command(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    (data / "lowlight").mkdir(parents=True)
    (data / "images").mkdir()
    for number, image in enumerate(dark_images()):
        cv2.imwrite(str(data / "lowlight" / f"{number}.png"), image)
        cv2.imwrite(str(data / "images" / f"{number}.png"), image)
    lines = ['{"file": "images/0.png", "night": true}', '{"file": "images/1.png"}']
    (data / "annotations.jsonl").write_text("\n".join(lines))
    assert [p.name for p in dark_image_paths(data)] == ["0.png", "1.png", "2.png", "0.png"]
    settings = [f"--set={k}" for k in ("steps=2", "side=64", "channels=4", "batch=2")]
    command = ["train", "enhancer", "--data", str(data), "--run", str(run), "--device", "cpu"]
    assert main([*command, *settings]) == 0
    assert enhance_image(load_enhancer(run / "enhancer.safetensors"), dark_images()[0]).any()
    (data / "lowlight" / "1.png").write_text("broken")
    with pytest.raises(DatasetError, match=r"lowlight.1\.png"):
        load_dark_images(data)
