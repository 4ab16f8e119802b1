"""Networks of a library that edgeprune does not need: timm, where it is installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest
from oracle import TOLERANCE, masked_against_cut, random_units, randomise_

from edgeprune.channels import couple, trace
from edgeprune.records import InputSpec

NETWORKS = {
    "skresnet18": 160,
    "ecaresnet26t": 256,
    "res2net50_26w_4s": 160,
    "cspdarknet53": 256,
    "hrnet_w18_small": 160,
    "mobilenetv4_conv_small": 160,
    "repvit_m0_9": 160,
    "vit_tiny_patch16_224": 224,
    "pit_ti_224": 224,
    "edgenext_xx_small": 256,
    "efficientvit_b0": 160,
    "pvt_v2_b0": 160,
    "xcit_nano_12_p16_224": 224,
    "levit_128s": 224,
    "poolformer_s12": 160,
    "nf_regnet_b0": 160,
    "eva02_tiny_patch14_224": 224,
}
"""One network of a kind, and the side of its images."""


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm

        network = timm.create_model(name, pretrained=False).eval()
    randomise_(network)
    side = NETWORKS[name]
    coupling = couple(trace(network, InputSpec(shape=(3, side, side)), one_tensor=False))
    assert coupling.unknown_ops == {}
    assert coupling.groups
    for seed, ratio in enumerate((0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
