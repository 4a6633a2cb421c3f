"""A small convolutional network with or without normalization layers, for the k-Adam experiments."""

import math
from collections.abc import Sequence

import torch
from torch import nn

#: Channels per group of the normalization layers.
_GROUP = 8


class CNN(nn.Sequential):
    """Convolutional classifier of images.

    3×3 convolutions, each followed by ReLU. From the second on, each convolution halves the image by a stride of 2; the
    gradient of pooling is not deterministic on a GPU. With ``norm``, a group normalization follows each convolution and makes
    its weights scale-invariant. Unlike batch normalization, it uses one image at a time.

    Args:
        inputs: channels of the images.
        height: height of the images in pixels.
        width: width of the images in pixels.
        channels: output channels of each convolution, at least one; multiples of 8 if ``norm``.
        classes: number of classes.
        norm: add a group normalization after each convolution.
        generator: CPU generator that draws all initial weights.

    Shape:
        - Input: (batch, inputs, height, width)
        - Output: logits of shape (batch, classes)

    Raises:
        ValueError: if ``norm`` is set and a channel count is not a multiple of 8.
    """

    def __init__(
        self,
        *,
        inputs: int,
        height: int,
        width: int,
        channels: Sequence[int],
        classes: int,
        norm: bool,
        generator: torch.Generator,
    ) -> None:
        if norm and any(c % _GROUP for c in channels):
            raise ValueError(f"channels {channels} are not multiples of {_GROUP}")
        layers: list[nn.Module] = []
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
    def _initialize(self, generator: torch.Generator) -> None:
        """Use He initialization for the convolutions, LeCun initialization for the last layer, and zero biases."""
        for module in self:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                gain = 2 if isinstance(module, nn.Conv2d) else 1
                module.weight.normal_(0.0, math.sqrt(gain / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
