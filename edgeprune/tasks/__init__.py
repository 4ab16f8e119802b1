"""What a network is for: scores for the causal test, a metric, and how sure both are. No torch.

Outputs are arrays, so that the deployed runtime and torch are judged by the same code.

task.py            what a task must say
classification.py  one class an image: top-1
segmentation.py    a class for each pixel: mIoU
detection.py       boxes: mAP, by pycocotools
own.py             a user's function: how good each answer is
moving.py          how far outputs have moved
ordering.py        labels in another order than the outputs
resampling.py      intervals by drawing images again
sauce.py           the area under accuracy over the share removed
"""

from edgeprune.tasks.classification import (
    Classification,
    accuracy,
    accuracy_change,
    probabilities,
    true_class_scores,
)
from edgeprune.tasks.detection import Detection
from edgeprune.tasks.moving import moved
from edgeprune.tasks.ordering import other_order
from edgeprune.tasks.own import Own
from edgeprune.tasks.resampling import draw, enough_for, surely_within
from edgeprune.tasks.sauce import sauce, sauce_interval, sauce_of_draws
from edgeprune.tasks.segmentation import Segmentation
from edgeprune.tasks.task import Kept, Task

__all__ = [
    "Classification",
    "Detection",
    "Kept",
    "Own",
    "Segmentation",
    "Task",
    "accuracy",
    "accuracy_change",
    "draw",
    "enough_for",
    "moved",
    "other_order",
    "probabilities",
    "sauce",
    "sauce_interval",
    "sauce_of_draws",
    "surely_within",
    "true_class_scores",
]
