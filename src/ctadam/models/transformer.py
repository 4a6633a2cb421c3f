"""A causal language model: pre-norm transformer with learned positions and separate embedding and head.

Embedding and head are not tied, so that a row of either belongs to one token in one role: input or target.
"""

import math

import torch
from torch import nn


class RootMeanSquareNorm(nn.Module):
    """x over the root of its mean square plus ε, along the last axis: to the bit `torch.nn.RMSNorm` without weights on a CPU.

    Written out, because torch's own kernel on a GPU has a gradient that cannot be batched over models: it would be called model
    by model.
    """

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x * x.pow(2).mean(-1, keepdim=True).add(self.eps).rsqrt()


class Attention(nn.Module):
    """Causal self-attention, written as products and a softmax: the fused kernel cannot be batched over models."""

    def __init__(self, width, heads, qk_norm=False):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.qk_norm = RootMeanSquareNorm(eps=1e-6) if qk_norm else None
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q), self.qk_norm(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width, heads, qk_norm=False):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Next-token logits of shape (batch, length, vocabulary) from token ids of shape (batch, length).

    Args:
        vocabulary: number of tokens.
        width: model width, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        context: longest sequence.
        qk_norm: normalize queries and keys in each head (by their root mean square), which makes the matrices that give
            them scale-invariant.
        generator: CPU generator that draws every initial weight, so that the start depends on nothing else.
    """

    def __init__(self, *, vocabulary, width, depth, heads, context, qk_norm=False, generator):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qk_norm) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self._initialize(depth, generator)

    @torch.no_grad()
    def _initialize(self, depth, generator):
        """GPT-2's scheme: normal weights of deviation 0.02, those that write to the residual stream scaled down."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                writes = name.endswith(("out.weight", "mlp.2.weight"))
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * depth) if writes else 0.02, generator=generator)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))
