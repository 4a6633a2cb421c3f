"""Find the scale-invariant weights of a model and make their invariance exact (arXiv 2411.05746, on normalization).

A weight is scale-invariant if multiplying it by a positive number does not change the loss: a linear map or convolution
followed by a normalization, and the query and key matrices before QK-norm.
"""

import itertools
from typing import TypeVar

from torch import nn

from ctadam.models.mlp import NormalizedLinear
from ctadam.models.transformer import Attention, RootMeanSquareNorm

NORMALIZATIONS = (nn.LayerNorm, nn.GroupNorm, RootMeanSquareNorm)

M = TypeVar("M", bound=nn.Module)


def make_exact(model: M) -> M:
    """Set ε of every normalization layer to 0, in place, and return the model.

    With ε > 0, the invariance has an error of about ε over the variance it is added to. With ε = 0, an input without variance
    gives 0/0; inputs whose entries differ are safe.
    """
    for module in model.modules():
        if isinstance(module, NORMALIZATIONS):
            module.eps = 0.0
    return model


def scale_invariant_weights(model: nn.Module) -> dict[str, tuple[str, slice]]:
    """Return the scale-invariant weights of a model.

    Returns:
        ``{name: (parameter's name, rows)}`` with rows a slice of the parameter's first axis. Queries, keys and values share
        one parameter in `ctadam.models.transformer.Attention`, hence the slices.
    """
    weights: dict[str, tuple[str, slice]] = {}
    for prefix, module in model.named_modules():
        prefix = f"{prefix}." if prefix else ""
        if isinstance(module, Attention) and module.qk_norm is not None:
            width = module.qkv.in_features
            weights[f"{prefix}queries"] = (f"{prefix}qkv.weight", slice(0, width))
            weights[f"{prefix}keys"] = (f"{prefix}qkv.weight", slice(width, 2 * width))
        elif isinstance(module, NormalizedLinear):
            weights[f"{prefix}weight"] = (f"{prefix}weight", slice(None))
        elif isinstance(module, nn.Sequential):
            for (name, layer), (_, following) in itertools.pairwise(module.named_children()):
                # With a bias between map and normalization, scaling the weight alone changes the output.
                if isinstance(following, NORMALIZATIONS) and layer.bias is None:
                    weights[f"{prefix}{name}.weight"] = (f"{prefix}{name}.weight", slice(None))
    return weights
