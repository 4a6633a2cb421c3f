"""Which weights of a model are scale-invariant, and how to make them so exactly (paper, section on normalization).

A weight is scale-invariant if the loss does not change when it is multiplied by a positive number: a linear map or a
convolution in front of a normalization, and the query and key matrices in front of QK-norm.
"""

import itertools

from torch import nn

from ctadam.models.mlp import NormalizedLinear
from ctadam.models.transformer import Attention, RootMeanSquareNorm

NORMALIZATIONS = (nn.LayerNorm, nn.GroupNorm, RootMeanSquareNorm)


def make_exact(model):
    """Set ε of every normalization layer to 0, in place; gives the model.

    With ε > 0 a weight is invariant to about ε over the variance it is added to. Without it an input of no variance
    would divide 0 by 0: not for inputs that differ from each other.
    """
    for module in model.modules():
        if isinstance(module, NORMALIZATIONS):
            module.eps = 0.0
    return model


def scale_invariant_weights(model):
    """The scale-invariant weights: ``{name: (parameter's name, rows)}``, rows a slice of the parameter's first axis.

    Queries and keys are one parameter with the values in `ctadam.models.transformer.Attention`, hence the slices.
    """
    found = {}
    for prefix, module in model.named_modules():
        prefix = f"{prefix}." if prefix else ""
        if isinstance(module, Attention) and module.qk_norm is not None:
            width = module.qkv.in_features
            found[f"{prefix}queries"] = (f"{prefix}qkv.weight", slice(0, width))
            found[f"{prefix}keys"] = (f"{prefix}qkv.weight", slice(width, 2 * width))
        elif isinstance(module, NormalizedLinear):
            found[f"{prefix}weight"] = (f"{prefix}weight", slice(None))
        elif isinstance(module, nn.Sequential):
            for (name, layer), (_, following) in itertools.pairwise(module.named_children()):
                # A bias between map and normalization would have to be scaled too.
                if isinstance(following, NORMALIZATIONS) and layer.bias is None:
                    found[f"{prefix}{name}.weight"] = (f"{prefix}{name}.weight", slice(None))
    return found
