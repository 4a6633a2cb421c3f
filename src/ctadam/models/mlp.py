"""Multilayer perceptron with tanh, whose smoothness makes a solver's order of convergence visible.

With a normalization after every linear map, all weights are scale-invariant (arXiv 2411.05746, on normalization).
"""

import itertools
import math

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Multilayer perceptron classifier.

    Args:
        features: number of inputs.
        width: units per hidden layer.
        depth: number of hidden layers; 0 gives a linear map.
        classes: number of classes.
        normalize: follow every linear map, including the last, by a layer normalization without parameters; no biases.
        generator: CPU generator that draws all initial weights.

    Shape:
        - Input: (batch, features)
        - Output: logits of shape (batch, classes)

    Raises:
        ValueError: if depth is negative.
    """

    def __init__(
        self,
        *,
        features: int,
        width: int,
        depth: int,
        classes: int,
        normalize: bool = False,
        generator: torch.Generator,
    ) -> None:
        if depth < 0:
            raise ValueError(f"depth {depth} is less than 0")
        sizes = [features, *[width] * depth, classes]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers.append(nn.Linear(inputs, outputs, bias=not normalize))
            if normalize:
                layers.append(nn.LayerNorm(outputs, elementwise_affine=False))
            layers.append(nn.Tanh())
        super().__init__(*layers[:-1])
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """Use LeCun initialization (normal, variance 1/inputs), which keeps tanh's inputs of order 1, and zero biases."""
        for parameter in self.parameters():
            if parameter.dim() < 2:
                parameter.zero_()
            else:
                parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[1]), generator=generator)


class NormalizedLinear(nn.Module):
    """Linear map of fixed norm, scale · Wx/‖W‖, whose only parameter is one scale-invariant weight.

    Args:
        features: number of inputs.
        classes: number of classes.
        scale: norm of the map.
        generator: CPU generator that draws the initial weight (LeCun initialization).

    Shape:
        - Input: (batch, features)
        - Output: logits of shape (batch, classes)
    """

    def __init__(self, *, features: int, classes: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, features))
        with torch.no_grad():
            self.weight.normal_(0.0, 1 / math.sqrt(features), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T * (self.scale / self.weight.square().sum().sqrt())
