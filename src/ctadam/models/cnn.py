"""A small convolutional network, with or without normalization layers: what k-Adam is tried on (paper, k-Adam)."""

import math

import torch
from torch import nn

#: Channels in a group of the normalization layers.
_GROUP = 8


class CNN(nn.Sequential):
    """Class logits of shape (batch, classes) from images of shape (batch, inputs, height, width).

    Convolutions of 3×3, ReLU after each; from the second on each halves the image. Strides instead of pooling, whose
    gradient is not deterministic on a GPU. With ``norm`` a group normalization stands behind each convolution: the weights
    before it are then scale-invariant, and unlike a batch normalization it looks at one image alone.

    Args:
        inputs: channels of the image.
        height, width: of the image.
        channels: those of each convolution, at least one; multiples of 8 where ``norm``.
        classes: number of outputs.
        norm: normalize behind each convolution.
        generator: CPU generator that draws every initial weight, so that the start depends on nothing else.
    """

    def __init__(self, *, inputs, height, width, channels, classes, norm, generator):
        if norm and any(c % _GROUP for c in channels):
            raise ValueError(f"channels {channels} are not multiples of {_GROUP}")
        layers = []
        for i, outputs in enumerate(channels):
            stride = 1 if i == 0 else 2
            height, width = -(-height // stride), -(-width // stride)
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not norm))
            if norm:
                layers.append(nn.GroupNorm(outputs // _GROUP, outputs))
            layers.append(nn.ReLU())
            inputs = outputs
        super().__init__(*layers, nn.Flatten(), nn.Linear(inputs * height * width, classes))
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator):
        """He's scheme for what ReLU follows, LeCun's for the last layer; no bias."""
        for module in self:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                gain = 2 if isinstance(module, nn.Conv2d) else 1
                module.weight.normal_(0.0, math.sqrt(gain / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
