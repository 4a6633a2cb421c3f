"""Causal language model: a pre-norm transformer with learned positions and untied embedding and head.

Because embedding and head are not tied, each of their rows belongs to one token in one role, input or target.
"""

import math

import torch
from torch import Tensor, nn


class RootMeanSquareNorm(nn.Module):
    """Divide by the root mean square plus ε along the last axis.

    On a CPU the result equals `torch.nn.RMSNorm` without weights bit for bit. It is written out because the gradient of torch's
    GPU kernel has no batching rule, so `vmap` would call it once per model.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * x.pow(2).mean(-1, keepdim=True).add(self.eps).rsqrt()


class Attention(nn.Module):
    """Causal self-attention, written as matrix products and a softmax because the fused kernel has no batching rule."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.qk_norm = RootMeanSquareNorm(eps=1e-6) if qk_norm else None
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q), self.qk_norm(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm transformer block: attention and a GELU network of width 4·width."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Causal transformer language model.

    Args:
        vocabulary: number of tokens.
        width: model width, a multiple of ``heads``.
        depth: number of blocks.
        heads: number of attention heads.
        context: maximum sequence length.
        qk_norm: normalize queries and keys per head by their root mean square, which makes their matrices scale-invariant.
        generator: CPU generator that draws all initial weights.

    Shape:
        - Input: token ids of shape (batch, length)
        - Output: next-token logits of shape (batch, length, vocabulary)

    Raises:
        ValueError: if width is not a multiple of heads.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        depth: int,
        heads: int,
        context: int,
        qk_norm: bool = False,
        generator: torch.Generator,
    ) -> None:
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
    def _initialize(self, depth: int, generator: torch.Generator) -> None:
        """Use GPT-2's initialization: normal with standard deviation 0.02, less for weights that write to the residual stream."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                writes = name.endswith(("out.weight", "mlp.2.weight"))
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * depth) if writes else 0.02, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))
