"""A multilayer perceptron with tanh between its layers: smooth, so that a solver's order can be seen through it.

With a normalization behind every linear map, all of its weights are scale-invariant (paper, section on normalization).
"""

import itertools
import math

import torch
from torch import nn


class MLP(nn.Sequential):
    """Class logits of shape (batch, classes) from features of shape (batch, features).

    Args:
        features: number of inputs.
        width: units in each hidden layer.
        depth: hidden layers; 0 is a linear map.
        classes: number of outputs.
        normalize: a layer normalization without parameters behind every linear map, the last one too, and no biases.
        generator: CPU generator that draws every initial weight, so that the start depends on nothing else.
    """

    def __init__(self, *, features, width, depth, classes, normalize=False, generator):
        if depth < 0:
            raise ValueError(f"depth {depth} is less than 0")
        sizes = [features, *[width] * depth, classes]
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers.append(nn.Linear(inputs, outputs, bias=not normalize))
            if normalize:
                layers.append(nn.LayerNorm(outputs, elementwise_affine=False))
            layers.append(nn.Tanh())
        super().__init__(*layers[:-1])
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator):
        """LeCun's scheme: normal weights of variance 1/inputs, which keep tanh's inputs of order 1; no bias."""
        for parameter in self.parameters():
            if parameter.dim() < 2:
                parameter.zero_()
            else:
                parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[1]), generator=generator)


class NormalizedLinear(nn.Module):
    """Class logits scale · Wx/‖W‖ of shape (batch, classes) from features of shape (batch, features).

    Nothing but one scale-invariant weight.

    Args:
        features: number of inputs.
        classes: number of outputs.
        scale: the norm that the map has.
        generator: CPU generator that draws the initial weight, by LeCun's scheme.
    """

    def __init__(self, *, features, classes, scale, generator):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, features))
        with torch.no_grad():
            self.weight.normal_(0.0, 1 / math.sqrt(features), generator=generator)

    def forward(self, x):
        return x @ self.weight.T * (self.scale / self.weight.square().sum().sqrt())
