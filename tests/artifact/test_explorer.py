"""The explorer: its formulas agree with Python's, and it embeds the runs that were made."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest

from ctadam.artifact.report.html import TEMPLATES
from ctadam.optim.stages import stage_betas
from ctadam.theory import stability

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

#: Prints the values of an expression for each row of arguments; JSON has no infinities, so they travel as text.
EVALUATE = """
const theory = require(process.argv[1]);
const rows = JSON.parse(require("fs").readFileSync(0, "utf8"));
const decode = (x) => (typeof x === "string" && x.startsWith("#") ? Number(x.slice(1)) : x);
const encode = (x) => (Array.isArray(x) ? x.map(encode) : typeof x === "number" ? String(x) : x);
console.log(JSON.stringify(rows.map(([name, ...args]) => encode(theory[name](...args.map(decode))))));
"""


def in_javascript(calls):
    """Return the results of calls ``(function, *arguments)`` of theory.js."""
    encoded = [[call[0], *(f"#{x!r}" if isinstance(x, float) else x for x in call[1:])] for call in calls]
    text = json.dumps(encoded).replace("#inf", "#Infinity").replace("#nan", "#NaN")
    command = ["node", "-e", EVALUATE, str(TEMPLATES / "theory.js")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    decode = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}

    def decoded(x):
        return [decoded(y) for y in x] if isinstance(x, list) else decode.get(x, x)

    return [decoded(x) for x in json.loads(done.stdout)]


def numbers(values):
    return np.array([float(value) for value in values])


#: Decays over the whole range: the edge 0, tiny ones, an even grid, pairs in common use, and up to the last float below 1.
DECAYS = [
    0.0, 5e-324, 1e-300, 1e-12, 1e-6, 1e-4, 0.001, *(i / 16 for i in range(1, 16)), 0.7, 0.72, 0.81, 0.9, 0.9025, 0.95, 0.98,
    0.99, 0.995, 0.999, 0.9999, 0.99999, 1 - 1e-9, 1 - 1e-13, 1 - 2**-52, 1 - 2**-53,
]  # fmt: skip
#: All pairs of them, and pairs on both boundaries and a few floats beside: there the verdicts change.
PAIRS = [(g, b) for g in DECAYS for b in DECAYS]
for _gamma in DECAYS:
    for _law in ("paper", "exact"):
        _edge = float(stability.boundary_beta2(beta1=_gamma, law=_law))
        PAIRS += [(_gamma, b) for b in (_edge, *(np.nextafter(_edge, x) for x in (0.0, 1.0)), _edge * (1 - 1e-12))]
        PAIRS += [(_gamma, _edge * (1 + d)) for d in (1e-14, 1e-10, 1e-5)]
PAIRS = [(float(g), float(b)) for g, b in PAIRS if b < 1]
GAMMA, BETA = np.array(PAIRS).T


def same(found, expected, rtol=1e-12):
    """Whether numbers agree; infinities and NaN must be the same ones."""
    np.testing.assert_allclose(numbers(found), expected, rtol=rtol, atol=0)


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_coefficients_and_rates_agree(law):
    found = in_javascript([("coefficient", g, b, law) for g, b in PAIRS])
    same(found, stability.stability_coefficient(beta1=GAMMA, beta2=BETA, law=law))
    found = in_javascript([("growthRate", g, b, law) for g, b in PAIRS])
    same(found, stability.growth_rate(beta1=GAMMA, beta2=BETA, law=law))


@needs_node
def test_verdicts_agree():
    expected = [stability.verdict(beta1=g, beta2=b).name.lower() for g, b in PAIRS]
    assert in_javascript([("verdict", g, b) for g, b in PAIRS]) == expected
    assert set(expected) == {"stable", "bounded", "boundary", "unstable"}


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
@pytest.mark.parametrize("step", [0.0, 1.0, 2.0, 499.0, 1e5, math.inf])
def test_bounds_agree(law, step):
    found = in_javascript([("updateBound", g, b, step, law) for g, b in PAIRS])
    expected = stability.update_bound(beta1=GAMMA, beta2=BETA, step=step, law=law)
    # exp(n·rate) enlarges the rounding of the coefficient by its exponent.
    same(found, expected, rtol=1e-10)
    same(
        in_javascript([("prefactor", g, b, step) for g, b in PAIRS]),
        stability.prefactor(beta1=GAMMA, beta2=BETA, step=step),
    )


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_nearest_stable_pairs_agree(law):
    """As text, because they are typed."""
    expected = [repr(stability.nearest_stable_beta2(beta1=g, beta2=b, law=law)) for g, b in PAIRS]
    found = in_javascript([("nearestStableBeta2", g, b, law) for g, b in PAIRS])
    assert [repr(float(value)) for value in found] == expected


@needs_node
def test_boundaries_agree():
    for law in ("paper", "exact"):
        found = in_javascript([("boundaryBeta2", g, law) for g in DECAYS])
        same(found, stability.boundary_beta2(beta1=DECAYS, law=law))
        back = in_javascript([("boundaryBeta1", float(b), law) for b in found if float(b) > 0])
        same(back, [g for g, b in zip(DECAYS, found, strict=True) if float(b) > 0], rtol=1e-9)
    for c in (-1.0, -0.1, 0.0, 0.3):
        with np.errstate(over="ignore"):
            expected = stability.level_curve(coefficient=c, beta2=DECAYS)
        same(in_javascript([("levelCurve", c, b) for b in DECAYS]), expected)


@needs_node
@pytest.mark.parametrize("eps, root", [(1e-8, 1.0), (1e-15, 1.0), (1e-6, 1e-3), (10.0, 1.0)])
def test_epsilon_s_cap_agrees(eps, root):
    # At the boundary both logarithms cancel, and an ulp of either changes the result.
    rate = stability.growth_rate(beta1=GAMMA, beta2=BETA, law="exact")
    unstable = [pair for pair, r in zip(PAIRS, rate, strict=True) if pair[1] > 0 and r > -1e-6 * math.log(pair[0])]
    gamma, beta = np.array(unstable).T
    found = np.array([numbers(pair) for pair in in_javascript([("epsilonCap", g, b, eps, root) for g, b in unstable])])
    expected = np.stack(stability.epsilon_cap(beta1=gamma, beta2=beta, eps=eps, root=root), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@needs_node
@pytest.mark.parametrize("strategy", ["naive", "exp", "inverse-exp", "uniform"])
def test_stages_agree(strategy):
    cases = [(k, g, b) for k in (1, 2, 3, 5) for g, b in PAIRS]
    found = in_javascript([("stageBetas", strategy, *case) for case in cases])
    for (k, g, b), stages in zip(cases, found, strict=True):
        expected = stage_betas(strategy, k, betas=(g, b))
        np.testing.assert_allclose(np.array(stages, dtype=float), expected, rtol=1e-12, atol=1e-300)
