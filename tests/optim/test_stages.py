import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctadam import stage_betas
from ctadam.optim import stages as module
from ctadam.theory.stability import stability_coefficient

NAMES = ("naive", "exp", "inverse-exp", "uniform")
decay = st.floats(0, 1, exclude_max=True)
count = st.integers(1, 10)


@given(decay, decay, count, st.sampled_from(NAMES))
def test_k_pairs_of_valid_decays(beta1, beta2, k, name):
    pairs = stage_betas(name, k, betas=(beta1, beta2))
    assert len(pairs) == k
    assert all(0 <= beta < 1 for pair in pairs for beta in pair)


@given(decay, decay, st.sampled_from(NAMES))
def test_one_stage_has_exactly_the_base_pair(beta1, beta2, name):
    assert stage_betas(name, 1, betas=(beta1, beta2)) == [(beta1, beta2)]


@given(decay, count)
def test_inverse_exp_keeps_the_weight_of_the_newest_gradient(beta, k):
    product = math.prod(1 - pair[0] for pair in stage_betas("inverse-exp", k, betas=(beta, 0.5)))
    assert product == pytest.approx(1 - beta, rel=1e-12)


@given(st.floats(0.9, 0.9999), count)
def test_uniform_keeps_the_summed_lag_to_first_order(beta, k):
    weight = 1 - stage_betas("uniform", k, betas=(0.5, beta))[0][1]
    assert weight == pytest.approx(min(1, k * (1 - beta)), rel=1e-9)


@given(decay, count)
def test_exp_divides_the_decay_time(beta, k):
    assert stage_betas("exp", k, betas=(beta, beta))[0] == pytest.approx((beta**k, beta**k))


def test_naive_repeats_the_pair():
    assert stage_betas("naive", 3, betas=(0.8, 0.95)) == [(0.8, 0.95)] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", range(1, 11))
def test_strategies_keep_the_usual_pair_stable(name, k):
    beta1, beta2 = stage_betas(name, k, betas=(0.9, 0.999))[-1]
    assert stability_coefficient(beta1=beta1, beta2=beta2) > 0


def test_explicit_pairs_are_returned_unchanged():
    pairs = [(0.5, 0.6), (0.7, 0.8)]
    assert stage_betas(pairs, 2) == pairs


@pytest.mark.parametrize(
    ("stages", "k", "betas", "error", "message"),
    [
        ("inverse_exp", 2, (0.9, 0.999), ValueError, "Invalid stages: 'inverse_exp' is none of 'naive', 'exp'"),
        (3, 2, (0.9, 0.999), ValueError, "Invalid stages: 3 is neither a strategy nor a sequence"),
        ([(0.9, 0.999)], 2, (0.9, 0.999), ValueError, "Invalid stages: got 1 pairs for k=2"),
        ([(0.9, 0.999), (0.9,)], 2, (0.9, 0.999), ValueError, r"Invalid betas of stage 2: \(0.9,\) is not a pair"),
        ([(0.9, 1.0)], 1, (0.9, 0.999), ValueError, "Invalid beta parameter at index 1 of stage 1: 1.0"),
        ("exp", 0, (0.9, 0.999), ValueError, "Invalid k: 0 is less than 1"),
        ("exp", -1, (0.9, 0.999), ValueError, "Invalid k: -1 is less than 1"),
        ("exp", 2.0, (0.9, 0.999), TypeError, "Invalid k: 2.0 is not an integer"),
        ("exp", True, (0.9, 0.999), TypeError, "Invalid k: True is not an integer"),
        ("exp", 2, (1.0, 0.999), ValueError, "Invalid beta parameter at index 0: 1.0"),
        ("exp", 2, (0.9, math.nan), ValueError, "Invalid beta parameter at index 1: nan"),
        ("exp", 2, (0.9, 0.99, 0.999), ValueError, r"Invalid betas: \(0.9, 0.99, 0.999\) is not a pair"),
        ("exp", 2, 0.9, ValueError, "Invalid betas: 0.9 is not a pair"),
        ("exp", 2, (0, 0.999), ValueError, r"betas must be either both floats or both Tensors, got \(0, 0.999\)"),
        ("exp", 2, (0.9, "0.999"), ValueError, "betas must be either both floats or both Tensors"),
    ],
)
def test_invalid_stages_raise(stages, k, betas, error, message):
    with pytest.raises(error, match=message):
        stage_betas(stages, k, betas=betas)


def test_examples_in_the_docstrings():
    assert doctest.testmod(module) == (0, 1)
