"""Make the bundled example again: `python scripts/train_example.py` (needs the extra `train`).

Writes digits.npz and digits_net.safetensors into calibration/digits/ and prints the held-out accuracy.
The same versions on the same CPU give the same bytes: every draw comes from seeded generators.

The network is trained with an L1 penalty on its BatchNorm scales (network slimming, Liu et al. 2017), so
that a good part of its channels is not needed and the example has something to show. Trained without it, the
same network lets go of a few channels only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.example import digits_net

FOLDER = Path(__file__).resolve().parent.parent / "calibration" / "digits"
SIDE = 32
TRAIN_IMAGES, CALIBRATION_IMAGES = 797, 300
"""Of the shuffled images; those in neither are for evaluation. Nothing but the first is trained on: the
causal test needs images that the network has not learnt by heart."""
EPOCHS = 30
BATCH = 64
PEAK_LEARNING_RATE = 0.1
SCALE_PENALTY = 0.02
SEED = 20
THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Gray images (N, 32, 32) and labels (N,) in three parts without a common image."""

    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    calibration_x: NDArray[np.uint8]
    calibration_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    digits = make_digits()
    # asdict() would copy the arrays; savez_compressed stamps no time, so equal arrays give equal bytes.
    arrays = {name: getattr(digits, name) for name in Digits.__slots__}
    np.savez_compressed(FOLDER / "digits.npz", **arrays)
    network = train(digits)
    correct = count_correct(network, digits.test_x, digits.test_y)
    save_file(network.state_dict(), FOLDER / "digits_net.safetensors")
    print(f"held out: {correct}/{len(digits.test_y)} correct ({correct / len(digits.test_y):.2%})")


def make_digits() -> Digits:
    """scikit-learn's 8x8 digits, upscaled and shuffled; no image is there twice."""
    source = load_digits()
    images = np.stack([upscale(image) for image in source.images])
    labels = source.target.astype(np.int64)
    if len(np.unique(images, axis=0)) != len(images):
        raise SystemExit("the digits hold duplicate images; leave them out before splitting")
    order = np.random.default_rng(SEED).permutation(len(images))
    parts = np.split(order, [TRAIN_IMAGES, TRAIN_IMAGES + CALIBRATION_IMAGES])
    arrays = {
        f"{name}_{kind}": values[part]
        for name, part in zip(("train", "calibration", "test"), parts, strict=True)
        for kind, values in (("x", images), ("y", labels))
    }
    return Digits(**arrays)


def upscale(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """From (8, 8) in 0..16 to (32, 32) in 0..255, bilinear."""
    small = Image.fromarray((image * (255 / 16)).astype(np.float32))
    large = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    rounded: NDArray[np.uint8] = np.rint(large).astype(np.uint8)
    return rounded


def to_inputs(images: NDArray[np.uint8]) -> Tensor:
    """Network inputs (N, 1, 32, 32), as digits.toml describes them."""
    return (torch.from_numpy(images).float()[:, None] / 255 - 0.5) / 0.5


def train(digits: Digits) -> nn.Module:
    """The example network, trained on the train part only."""
    generator = torch.Generator().manual_seed(SEED)
    inputs, labels = to_inputs(digits.train_x), torch.from_numpy(digits.train_y)
    network = digits_net()
    start_weights_(network, generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    scales = [layer.weight for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for epoch in range(EPOCHS):
        summed_loss = 0.0
        for batch in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
            scores = network(distort(inputs[batch], generator))
            loss = functional.cross_entropy(scores, labels[batch])
            penalty = SCALE_PENALTY * torch.stack([scale.abs().sum() for scale in scales]).sum()
            optimizer.zero_grad()
            (loss + penalty).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
            summed_loss += loss.item() * len(batch)
        print(f"epoch {epoch + 1}/{EPOCHS}: mean loss {summed_loss / len(labels):.4f}", flush=True)
    return network.eval()


def start_weights_(network: nn.Module, generator: torch.Generator) -> None:
    """He initialisation from our generator; torch's own would draw from the global one."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def distort(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 15 degrees, scale by up to 10 % and shift by up to 3 pixels, each image its own way."""
    draws = torch.rand(4, len(inputs), generator=generator) * 2 - 1
    angle, scale = draws[0] * math.radians(15), 1 + 0.1 * draws[1]
    shift = draws[2:] * (2 * 3 / SIDE)
    across = torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[0]], dim=1)
    down = torch.stack([scale * angle.sin(), scale * angle.cos(), shift[1]], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)


def count_correct(network: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> int:
    with torch.inference_mode():
        predictions = torch.cat([network(batch).argmax(1) for batch in torch.split(to_inputs(images), 100)])
    return int((predictions == torch.from_numpy(labels)).sum())


if __name__ == "__main__":
    main()
