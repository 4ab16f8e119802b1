"""The networks and images that ship with edgeprune, to see it work without any download.

digits.py  handwritten digits and their classifier
scenes.py  rendered shapes before clutter: images with masks and boxes, drawn when asked for
unet.py    the network that finds the shapes' pixels
ssd.py     the network that finds their boxes
"""

from edgeprune.example.digits import digits_net
from edgeprune.example.scenes import SCENE_CLASSES, Scenes, draw_scenes, write_scenes, write_shapes
from edgeprune.example.ssd import shapes_net
from edgeprune.example.unet import scenes_net

__all__ = [
    "SCENE_CLASSES",
    "Scenes",
    "digits_net",
    "draw_scenes",
    "scenes_net",
    "shapes_net",
    "write_scenes",
    "write_shapes",
]
