"""A multilayer perceptron with tanh between its layers: smooth, so that a solver's order can be seen through it."""

import itertools
import math

import torch
from torch import nn


class MLP(nn.Sequential):
    """Class logits of shape (batch, classes) from features of shape (batch, features).

    Args:
        features: number of inputs.
        width: units in each hidden layer.
        depth: hidden layers, at least 1.
        classes: number of outputs.
        generator: CPU generator that draws every initial weight, so that the start depends on nothing else.
    """

    def __init__(self, *, features, width, depth, classes, generator):
        if depth < 1:
            raise ValueError(f"depth {depth} is less than 1")
        sizes = [features, *[width] * depth, classes]
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
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
