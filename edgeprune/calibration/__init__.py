"""Images and labels from a description or a path, in three disjoint splits, as network inputs. No torch.

| file | knows |
|---|---|
| description.py | calibration/*.toml, and what a plain path stands for |
| preprocess.py | whose preprocessing settings win |
| listing.py | what images a folder, a .csv or an .npz holds, and under which label |
| arrays.py | .npz files |
| labels.py | class names and label numbers |
| splits.py | who goes where: no image in two splits |
| assemble.py | all of these in order: `load` |
| pixels.py | from a decoded image to an input, equal to torchvision's transforms |
| boxes.py | objects with their corners: COCO, VOC, .npz |
| masks.py | a class number for each pixel |
| guessing.py | what images are labelled with, and a description of a folder that has none |
| inputs.py | from a CalibrationSet to batches |
| overlays.py | answers painted over inputs |
| thumbnails.py | inputs turned back into small pictures |
"""

from edgeprune.calibration.assemble import load
from edgeprune.calibration.guessing import describe_folder, guess_kind
from edgeprune.calibration.inputs import batches, images, input_spec, labels
from edgeprune.calibration.overlays import boxed, differing, painted
from edgeprune.calibration.pixels import preprocess_image
from edgeprune.calibration.thumbnails import thumbnails

__all__ = [
    "batches",
    "boxed",
    "describe_folder",
    "differing",
    "guess_kind",
    "images",
    "input_spec",
    "labels",
    "load",
    "painted",
    "preprocess_image",
    "thumbnails",
]
