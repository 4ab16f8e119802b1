"""Make the weights of the example's segmentation network again: `python scripts/train_scenes.py`.

Writes calibration/scenes/scenes_net.safetensors and prints the mIoU on the example's test images. The images
are rendered as training goes, from seeds that the example does not use. As for the digits, an L1 penalty on
the BatchNorm scales (network slimming, Liu et al. 2017) leaves channels that are not needed.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import tasks
from edgeprune.example import SCENE_CLASSES, draw_scenes, scenes_net
from edgeprune.example.scenes import TEST

FOLDER = Path(__file__).resolve().parent.parent / "calibration" / "scenes"
FIRST_SEED = 100
IMAGES, EPOCHS, BATCH = 1500, 12, 20
PEAK_LEARNING_RATE = 3e-3
SCALE_PENALTY = 2e-4
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    asked = parser.parse_args()
    torch.manual_seed(SEED)
    network = scenes_net()
    scenes = draw_scenes(FIRST_SEED, asked.images)
    train_(network, as_input(scenes.images), torch.from_numpy(scenes.masks.astype(np.int64)), asked.epochs)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), FOLDER / "scenes_net.safetensors")
    print(f"mIoU on the test images: {test(network):.4f}")


def train_(network: nn.Module, images: Tensor, masks: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=1e-3)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    scales = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            x, y = turned(images[batch], masks[batch])
            loss = functional.cross_entropy(network(x), y)
            penalty = sum((scale.abs().sum() for scale in scales), torch.zeros(()))
            optimizer.zero_grad()
            (loss + SCALE_PENALTY * penalty).backward()
            optimizer.step()
            schedule.step()
            total += float(loss)
        print(f"epoch {epoch + 1}: loss {total / math.floor(len(images) / BATCH):.4f}", flush=True)
    network.eval()


def turned(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turned and mirrored at random, all of a batch alike."""
    turns, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    images, masks = torch.rot90(images, turns, (-2, -1)), torch.rot90(masks, turns, (-2, -1))
    return (images.flip(-1), masks.flip(-1)) if mirrored else (images, masks)


def as_input(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


@torch.no_grad()
def test(network: nn.Module) -> float:
    scenes = draw_scenes(*TEST)
    task, masks = tasks.Segmentation(len(SCENE_CLASSES)), scenes.masks.astype(np.int16)
    outputs = torch.cat([network(part) for part in as_input(scenes.images).split(BATCH)]).numpy()
    return task.value(task.kept(outputs, masks), masks)


if __name__ == "__main__":
    main()
