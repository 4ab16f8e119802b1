"""A network becomes files that a CPU runtime loads (ONNX, OpenVINO IR), and how far they agree with it.

from_torch.py   torch -> ONNX, and a simpler graph of the same
ir.py           ONNX -> OpenVINO IR
forms.py        16-bit weights, ORT format, the processing of images inside
processing.py   the processing of images as ONNX operations
detections.py   the post-processing of an SSD as ONNX operations
metadata.py     labels, preprocessing and provenance inside the file
counting.py     what a file is: size, digest, input, parameters, multiply-accumulates
parity.py       how far two stages disagree
writing.py      files that are whole or not there
"""

from edgeprune.export.counting import artifact, params_and_macs, shape_of
from edgeprune.export.detections import with_boxes
from edgeprune.export.forms import End, to_fp16, to_ort, with_processing
from edgeprune.export.from_torch import INPUT, OUTPUT, simplify, to_onnx
from edgeprune.export.ir import for_runtime, save_openvino, to_openvino
from edgeprune.export.metadata import describe, read_description
from edgeprune.export.parity import parity
from edgeprune.export.writing import parts, save, staged

__all__ = [
    "INPUT",
    "OUTPUT",
    "End",
    "artifact",
    "describe",
    "for_runtime",
    "params_and_macs",
    "parity",
    "parts",
    "read_description",
    "save",
    "save_openvino",
    "shape_of",
    "simplify",
    "staged",
    "to_fp16",
    "to_onnx",
    "to_openvino",
    "to_ort",
    "with_boxes",
    "with_processing",
]
