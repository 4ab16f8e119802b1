"""Make the weights of the example's detector again: `python scripts/train_shapes.py`.

Writes calibration/shapes/shapes_net.safetensors and prints the mAP on the example's test images. The images
are rendered as training goes, from seeds that the example does not use, turned and mirrored. As for the
digits, an L1 penalty on the BatchNorm scales (network slimming, Liu et al. 2017) leaves channels that are not
needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune import tasks, zoo
from edgeprune.example import draw_scenes, shapes_net
from edgeprune.example.scenes import SCENE_CLASSES, SHAPES_TEST, WIDE_SIDE, box_labels
from edgeprune.records import InputSpec

FOLDER = Path(__file__).resolve().parent.parent / "calibration" / "shapes"
FIRST_SEED = 200
IMAGES, EPOCHS, BATCH = 3000, 16, 24
PEAK_LEARNING_RATE = 3e-3
SCALE_PENALTY = 2e-4
SEED = 7
CLASSES = len(SCENE_CLASSES) - 1

Boxes = tuple[tuple[int, float, float, float, float], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    asked = parser.parse_args()
    torch.manual_seed(SEED)
    network = shapes_net()
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    scenes = draw_scenes(FIRST_SEED, asked.images, side=WIDE_SIDE)
    train_(network, torch.from_numpy(scenes.images).permute(0, 3, 1, 2), scenes.boxes, asked.epochs)
    asked.out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), asked.out / "shapes_net.safetensors")
    print(f"mAP@[.5:.95], mAP@.5 on the test images: {test(network)}")


def train_(network: nn.Module, images: Tensor, boxes: tuple[Boxes, ...], epochs: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=1e-3)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * steps)
    scales = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH)[:steps]:
            turned_ = [turned(images[i].float() / 255, boxes[i]) for i in batch.tolist()]
            losses = network([image for image, _ in turned_], [target for _, target in turned_])
            loss = losses["classification"] + losses["bbox_regression"]
            penalty = sum((scale.abs().sum() for scale in scales), torch.zeros(()))
            optimizer.zero_grad()
            (loss + SCALE_PENALTY * penalty).backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}", flush=True)
    network.eval()


def turned(image: Tensor, boxes: Boxes) -> tuple[Tensor, dict[str, Tensor]]:
    """An image turned and mirrored at random, with its boxes as torchvision's detectors take them."""
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    corners, side = rows[:, 1:], image.shape[-1]
    for _ in range(int(torch.randint(4, ()))):
        image = torch.rot90(image, 1, (-2, -1))
        x0, y0, x1, y1 = corners.unbind(1)
        corners = torch.stack([y0, side - x1, y1, side - x0], 1)
    if torch.randint(2, ()):
        image = image.flip(-1)
        x0, y0, x1, y1 = corners.unbind(1)
        corners = torch.stack([side - x1, y0, side - x0, y1], 1)
    return image, {"boxes": corners, "labels": rows[:, 0].long()}


@torch.no_grad()
def test(network: nn.Module) -> str:
    scenes = draw_scenes(*SHAPES_TEST, side=WIDE_SIDE)
    core, finish = zoo.detecting(network, InputSpec(shape=(3, WIDE_SIDE, WIDE_SIDE)))
    images = torch.from_numpy(scenes.images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    outputs = torch.cat([core(part) for part in images.split(BATCH)]).numpy()
    task, labels = tasks.Detection(CLASSES, finish), box_labels(scenes.boxes)
    found = task.accuracy(task.kept(outputs, labels), labels, CLASSES)
    return f"{found.top1.value:.4f}, {found.others['mAP@.5']:.4f}"


if __name__ == "__main__":
    main()
