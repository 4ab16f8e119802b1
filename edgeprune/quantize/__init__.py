"""A verified ONNX file becomes one in 8 bits, weights and activations; calibration images give the ranges.

static.py      ONNX Runtime's static quantization: a QDQ file that ONNX Runtime and OpenVINO both run
bias.py        what rounding the weights shifts on average goes into the biases
layers.py      the quantized layers of a QDQ file, and putting some back to float32
fallback.py    which layers go back, until the validation images lose no more than allowed
nncf_ir.py     NNCF's quantization for OpenVINO, with its own control of the accuracy (extra `int8`)
"""

from edgeprune.quantize.fallback import Demand, Restored, restore
from edgeprune.quantize.layers import quantized_layers
from edgeprune.quantize.nncf_ir import Judge, quantize_ir
from edgeprune.quantize.static import quantize_onnx

__all__ = ["Demand", "Judge", "Restored", "quantize_ir", "quantize_onnx", "quantized_layers", "restore"]
