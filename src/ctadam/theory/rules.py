"""Betas given by a rule in the batch size B, such as ``0.98**(B/128)``, and the batch sizes at which they are unstable.

A rule is parsed into a syntax tree of which only arithmetic is evaluated, in float64. Names, attributes and calls other than
those listed here are errors, and a huge power is infinite instead of slow.
"""

import ast
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ctadam.theory import stability
from ctadam.theory.stability import FloatArray

_OPERATORS: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"sqrt": np.sqrt, "exp": np.exp, "log": np.log}
_EXTREMES: dict[str, Callable[..., Any]] = {"min": np.minimum, "max": np.maximum}
_ALLOWED = "numbers, B, + - * / **, parentheses, sqrt, exp, log, min and max"
#: Largest number of characters of a rule; the parser's recursion is as deep as a rule is long.
_LONGEST = 200
#: Largest number of batch sizes that are checked one by one.
MOST_BATCHES = 10_000_000


class Rule:
    """A number as a function of the batch size B.

    Args:
        text: expression of numbers, ``B``, ``+ - * / **``, parentheses, ``sqrt``, ``exp``, ``log``, ``min`` and ``max``.

    Raises:
        ValueError: if the text contains anything else; the message quotes it.

    Example:
        >>> rule = Rule("0.98**(B/128)")
        >>> float(rule(256))
        0.9603999999999999
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if len(self.text) > _LONGEST:
            raise ValueError(f"Invalid rule: it has more than {_LONGEST} characters")
        try:
            self._body = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"Invalid rule {self.text!r}: {reason}") from error
        self(1.0)  # report now what is not allowed

    @property
    def is_constant(self) -> bool:
        """Whether the rule does not contain B."""
        return not any(isinstance(node, ast.Name) and node.id == "B" for node in ast.walk(self._body))

    def __call__(self, batch: ArrayLike) -> FloatArray:
        """Return the value at each batch size, float64 of the same shape; NaN or inf where it is undefined."""
        batch = np.asarray(batch, dtype=np.float64)
        with np.errstate(all="ignore"):
            value = self._evaluate(self._body, batch)
        return np.broadcast_to(value, batch.shape)[()]

    def _evaluate(self, node: ast.expr, batch: FloatArray) -> Any:
        match node:
            # Python's own integers would make 9**9**9 run forever; float64 makes it infinite.
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return np.float64(value)
            case ast.Name(id="B"):
                return batch
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._evaluate(operand, batch)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                return _OPERATORS[type(operator)](self._evaluate(left, batch), self._evaluate(right, batch))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](self._evaluate(argument, batch))
            case ast.Call(func=ast.Name(id=name), args=[_, _, *_] as arguments, keywords=[]) if name in _EXTREMES:
                return functools.reduce(_EXTREMES[name], [self._evaluate(argument, batch) for argument in arguments])
        part = ast.get_source_segment(self.text, node)
        raise ValueError(f"Invalid rule {self.text!r}: {part!r} is not allowed (allowed: {_ALLOWED})")


def betas(*, beta1: Rule, beta2: Rule, batch: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return beta1 and beta2 at each batch size.

    Raises:
        ValueError: if a value is outside [0, 1); the message names the first such batch size.
    """
    batch = np.atleast_1d(np.asarray(batch, dtype=np.float64))
    values = beta1(batch), beta2(batch)
    for name, rule, value in zip(("beta1", "beta2"), (beta1, beta2), values, strict=True):
        outside = ~((value >= 0) & (value < 1))  # NaN counts as outside
        if outside.any():
            first = outside.argmax()
            raise ValueError(f"Invalid {name} = {rule.text}: {value[first]:g} at B = {batch[first]:g} is not in [0, 1)")
    return values


def unstable_batches(
    *, beta1: Rule, beta2: Rule, batches: tuple[int, int], law: stability.Law = "paper"
) -> list[tuple[int, int]]:
    """Return the batch sizes for which updates can grow exponentially, as ranges ``(first, last)``.

    Every whole number in ``batches``, both ends included, is checked, so the ranges are exact for any rule.

    Args:
        beta1: rule for the decay of the first moment (paper's γ).
        beta2: rule for the decay of the second moment (paper's β).
        batches: smallest and largest batch size.
        law: ``"paper"`` or ``"exact"``, as in `ctadam.theory.stability`.

    Raises:
        ValueError: if a beta is outside [0, 1) for some batch size or there are more than `MOST_BATCHES` of them.
    """
    first, last = batches
    if not 1 <= first <= last or last - first >= MOST_BATCHES:
        raise ValueError(
            f"Invalid range of batch sizes: {first} to {last}; at most {MOST_BATCHES:,} from 1 on are checked"
        )
    edges: list[int] = []
    for start in range(first, last + 1, 100_000):
        batch = np.arange(start, min(start + 100_000, last + 1))
        gamma, beta = betas(beta1=beta1, beta2=beta2, batch=batch)
        unstable = stability.growth_rate(beta1=gamma, beta2=beta, law=law) > 0
        was = len(edges) % 2 == 1
        edges += batch[np.diff(unstable, prepend=was)].tolist()
    if len(edges) % 2:
        edges.append(last + 1)
    return [(start, end - 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]
