"""Rules for betas: what may be written, what it evaluates to, and the batch sizes at which it is unstable."""

import math

import numpy as np
import pytest

from ctadam.theory import rules, stability
from ctadam.theory.rules import Rule


@pytest.mark.parametrize(
    "text, at_3",
    [
        ("0.5", 0.5), ("B", 3), ("1 - 2*B/4", -0.5), ("-B**2", -9), ("2**-B", 0.125), ("(B + 1)*(B - 1)", 8), ("--B", 3),
        ("sqrt(B)", math.sqrt(3)), ("exp(-B)", math.exp(-3)), ("log(B)", math.log(3)), ("min(B, 5, 2)", 2),
        ("max(0.5, 1 - 0.025*B)", 0.925), ("1e-3 * B", 3e-3), (" B ", 3), ("2**3**2", 512),
    ],
)  # fmt: skip
def test_value(text, at_3):
    rule = Rule(text)
    assert rule(3) == pytest.approx(at_3, rel=1e-15)
    assert rule(np.array([[3.0, 3.0]])).shape == (1, 2)
    assert rule.is_constant == ("B" not in text)


@pytest.mark.parametrize(
    "text, part",
    [
        ("0.9 + x", "x"), ("B^2", "B^2"), ("1 - B//2", "B//2"), ("B % 2", "B % 2"), ("B.real", "B.real"), ("B[0]", "B[0]"),
        ("0.9 + abs(B)", "abs(B)"), ("max(B)", "max(B)"), ("sqrt(B, 2)", "sqrt(B, 2)"), ("min(B, 2, key=3)", "min(B, 2, key=3)"),
        ("max(*B, 2)", "*B"), ("sqrt", "sqrt"), ("1j", "1j"), ("True", "True"), ("'B'", "'B'"), ("f'{B}'", "f'{B}'"),
        ("[B]", "[B]"), ("(B, B)", "(B, B)"), ("0.1 if B < 3 else 0.2", "0.1 if B < 3 else 0.2"), ("B < 3", "B < 3"),
        ("lambda: B", "lambda: B"), ("(B := 3)", "B := 3"), ("~B", "~B"), ("0,5", "0,5"), ("κ", "κ"),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("(1).__class__", "(1).__class__"), ("exp(B).real", "exp(B).real"), ("getattr(B, 'real')", "getattr(B, 'real')"),
    ],
)  # fmt: skip
def test_other_syntax_is_refused_and_quoted(text, part):
    with pytest.raises(ValueError) as error:
        Rule(text)
    assert f": {part!r} is not allowed (allowed: numbers, B, + - * / **" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "(", "B B", "1 +", "0.9; B", "B = 3", "B\0", "import os", "(" * 99 + "B", "B" * 500]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="Invalid rule"):
        Rule(text)


@pytest.mark.parametrize("text", ["9**9**9**9", "-9**9**9", "1e999", "10**B**B", "1/(B - B)", "exp(exp(exp(9)))"])
def test_huge_values_are_infinite(text):
    """Python's integers would take forever."""
    assert np.isinf(Rule(text)(99))


def test_undefined_values_are_nan():
    assert np.isnan(Rule("sqrt(-B)")(2)) and np.isnan(Rule("log(-1)")(2)) and np.isnan(Rule("(-B)**0.5")(2))


def test_betas_outside_the_square_name_the_first_batch_size():
    with pytest.raises(ValueError, match=r"Invalid beta2 = 1 - 0.25\*B: -0.25 at B = 5 is not in"):
        rules.betas(beta1=Rule("0.9"), beta2=Rule("1 - 0.25*B"), batch=np.arange(1, 9))
    with pytest.raises(ValueError, match=r"Invalid beta1 = log\(B - 3\): nan at B = 1 is not in"):
        rules.betas(beta1=Rule("log(B - 3)"), beta2=Rule("0.9"), batch=np.arange(1, 9))


@pytest.mark.parametrize(
    "beta1, beta2, batches, paper, exact",
    [
        ("0.95", "0.98**(B/128)", (64, 8192), (635, 8192), (650, 8192)),
        ("max(0.5, 1 - 0.025*B)", "1 - 0.0125*B", (1, 79), (54, 79), (61, 79)),
        ("0.95", "max(0.98**(B/128), 0.905)", (64, 8192), None, None),
        ("0.95", "0.98**(B/128)", (1000, 2000), (1000, 2000), (1000, 2000)),
        ("0.95", "0.98**(B/128)", (650, 650), (650, 650), (650, 650)),
        # On the boundary of the exact law, updates do not grow exponentially.
        ("0.9", "0.81", (1, 10), (1, 10), None),
    ],
)
def test_unstable_batches(beta1, beta2, batches, paper, exact):
    for law, expected in (("paper", paper), ("exact", exact)):
        found = rules.unstable_batches(beta1=Rule(beta1), beta2=Rule(beta2), batches=batches, law=law)
        assert found == ([] if expected is None else [expected])


def test_a_rule_may_leave_and_return_many_times():
    """Beyond 100,000 batch sizes, which are computed at a time; the reference goes through them one by one."""
    beta1, beta2, batches = Rule("0.9"), Rule("min(0.999, 0.5 + 1e-11*(B - 100000)**2)"), (99_000, 350_000)
    expected = [
        batch for batch in range(batches[0], batches[1] + 1, 1000)
        if stability.growth_rate(beta1=0.9, beta2=float(beta2(batch)), law="exact") > 0
    ]  # fmt: skip
    ranges = rules.unstable_batches(beta1=beta1, beta2=beta2, batches=batches, law="exact")
    assert [b for b in range(batches[0], batches[1] + 1, 1000) if any(lo <= b <= hi for lo, hi in ranges)] == expected
    # One range, although it crosses from one chunk to the next.
    assert len(ranges) == 1 and ranges[0][0] == batches[0] and 200_000 < ranges[0][1] < batches[1]
    twice = Rule("max(0.1, 0.9 - 0.8*(B/10 - 2)**2)")
    assert rules.unstable_batches(beta1=Rule("0.5"), beta2=twice, batches=(10, 30), law="exact") == [(10, 10), (30, 30)]


@pytest.mark.parametrize("batches", [(0, 5), (5, 4), (1, rules.MOST_BATCHES + 1)])
def test_ranges_that_cannot_be_checked_are_refused(batches):
    with pytest.raises(ValueError, match="Invalid range of batch sizes"):
        rules.unstable_batches(beta1=Rule("0.9"), beta2=Rule("0.99"), batches=batches)
