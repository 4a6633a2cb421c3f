"""Claims S1-S6 and S10: the stable region and exponential growth (paper, section 3)."""

import warnings

import numpy as np
from scipy import optimize

from ctadam.claims.rules import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Outcome,
    bootstrap,
    claim,
    decide,
    with_interval,
    within,
    worst,
)  # fmt: skip
from ctadam.measurements.slopes import half_width
from ctadam.theory import stability

#: The paper's region is left behind where C is below this: closer to the boundary, 500 steps show little growth.
WELL_OUTSIDE = -0.01


def _curve(e):
    """The runs along the normal curve (ε = 0, float64 state), by falling C."""
    return e.table.query("variant == 'curve'").sort_values("C", ascending=False)


def _outside(e):
    """Those of them well outside the stable region."""
    return _curve(e).query("C < @WELL_OUTSIDE")


def _too_short(e):
    """Why these runs cannot show growth, or an empty string: they must be predicted to grow e-fold in the window."""
    outside = _outside(e)
    if outside.empty:
        return f"no run with C < {WELL_OUTSIDE}"
    growth = float((outside["rate_exact"] * (outside["steps"] - outside["window_start"])).median())
    return "" if growth >= 1 else f"runs too short: predicted growth in the window is e^{growth:.2g}, not e^1"


@claim(
    "S1", "P", "updates are bounded inside the stable region",
    statistic="max over runs with C > 0 (float64 state) and all n of the update over its bound",
    rule="at most 1 + 1e-9 for the paper's bound and for the exact one", experiment="growth", figure="fig2",
)  # fmt: skip
def _s1(e):
    stable = e.table.query("C > 0 and state_dtype == 'float64'")["run"]
    runs = e.runs[e.runs["run"].isin(stable) & e.runs["update_max"].notna()]
    if runs.empty:
        return Outcome("≤ 1", "", INCONCLUSIVE, "no run with C > 0")
    where = {"beta1": runs["beta1"], "beta2": runs["beta2"], "step": runs["step"]}
    ratio = {
        law: float((runs["update_max"] / stability.update_bound(**where, law=law)).max()) for law in ("paper", "exact")
    }
    # Adam's first update is ±1 and so is its bound: how near later ones come says more.
    later = runs[runs["step"] > 0]
    near = (later["update_max"] / stability.update_bound(**later[["beta1", "beta2", "step"]], law="exact")).max()
    return Outcome(
        "≤ 1",
        f"{ratio['paper']:.10f} (paper), {ratio['exact']:.10f} (exact)",
        REPRODUCED if max(ratio.values()) <= 1 + 1e-9 else CONTRADICTED,
        f"{stable.nunique()} runs; after the first step, where both are 1, at most {near:.4f} of the exact bound",
    )


@claim(
    "S2", "P", "outside the stable region updates grow exponentially",
    statistic="median R² of ln(update/prefactor) on n, runs with C < −0.01, last 40 % of steps",
    rule="95 % interval over runs at least 0.98", experiment="growth", figure="fig2",
)  # fmt: skip
def _s2(e):
    if _too_short(e):
        return Outcome("1", "", INCONCLUSIVE, _too_short(e))
    value, low, high = bootstrap(np.median, _outside(e)["rate_r_squared"])
    return Outcome("1", with_interval(value, low, high, ".4f"), decide(low, high, lambda x: x >= 0.98))


def _correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def _mean_error(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).mean())


def _unstable(e):
    """Runs along the curve that the exact law calls unstable."""
    return _curve(e).query("C_exact < 0")


@claim(
    "S3", "P", "the growth rate is |C|/2",
    statistic="correlation over the curve's points of measured rate with |C|/2 (0 inside); mean error outside",
    rule="95 % interval over points of the correlation at least 0.99", experiment="growth", figure="fig2",
)  # fmt: skip
def _s3(e):
    if _too_short(e):
        return Outcome("r = 1", "", INCONCLUSIVE, _too_short(e))
    value, low, high = bootstrap(_correlation, _curve(e)["rate"], _curve(e)["rate_paper"])
    outside = _unstable(e)
    error = _mean_error(outside["rate"], outside["rate_paper"])
    relative = float((np.abs(_outside(e)["rate"] / _outside(e)["rate_paper"] - 1)).mean())
    return Outcome(
        "r = 1", f"r = {with_interval(value, low, high, '.4f')}", decide(low, high, lambda x: x >= 0.99),
        f"mean error {error:.2g} per step where C < 0; {relative:.1%} of the rate where C < {WELL_OUTSIDE}",
    )  # fmt: skip


@claim(
    "S4", "D", "the growth rate is exactly ln(γ/√β)",
    statistic="mean absolute error of the rate per step, points with γ² > β",
    rule="95 % interval over points at most 2e-4, and the error below S3's", experiment="growth", figure="fig2",
)  # fmt: skip
def _s4(e):
    if _too_short(e):
        return Outcome("0", "", INCONCLUSIVE, _too_short(e))
    outside = _unstable(e)
    value, low, high = bootstrap(_mean_error, outside["rate"], outside["rate_exact"])
    papers = _mean_error(outside["rate"], outside["rate_paper"])
    verdict = decide(low, high, lambda x: x <= 2e-4)
    if verdict == REPRODUCED and not value < papers:
        verdict = CONTRADICTED
    held = _mean_error(outside["held_rate"], outside["rate_exact"])
    return Outcome(
        "0", with_interval(value, low, high, ".2e"), verdict,
        f"with |C|/2 in its place {papers:.2e}; counting only steps at which the same row holds the maximum: {held:.2e}",
    )  # fmt: skip


@claim(
    "S5", "P", "the change happens at the boundary C = 0",
    statistic="first point along the curve whose rate is above 0 (95 % intervals, simultaneous over the points)",
    rule="within two points of the first with C < 0; later is inconclusive where the intervals of the points between "
    "hold the predicted rates",
    experiment="growth", figure="fig2",
)  # fmt: skip
def _s5(e):
    if _too_short(e):
        return Outcome("", "", INCONCLUSIVE, _too_short(e))
    # Several seeds at a point: the mean rate, with the larger of the two ways to see its spread.
    points = _curve(e).groupby("point").agg(
        C=("C", "first"), rate=("rate", "mean"), predicted=("rate_exact", "first"), df=("rate_df", "min"),
        between=("rate", "sem"), within=("rate_se", lambda s: float(np.sqrt((s**2).sum()) / len(s))), seeds=("rate", "count"),
    ).dropna(subset="rate")  # fmt: skip
    # Each way with its own degrees of freedom.
    df = points["df"].where(~(points["between"] > points["within"]), points["seeds"] - 1)
    half = half_width(points[["between", "within"]].max(axis=1), df, 1 - 0.05 / len(points))
    above = points["rate"] - half > 0
    boundary = int(points.index[points["C"] < 0][0])
    first = int(points.index[above][0]) if above.any() else int(points.index[-1]) + 1
    between = points[(points.index > boundary + 2) & (points.index < first)]
    if abs(first - boundary) <= 2:
        verdict = REPRODUCED
    elif len(between) and (np.abs(between["rate"] - between["predicted"]) <= half[between.index]).all():
        verdict = INCONCLUSIVE
    else:
        verdict = CONTRADICTED
    # Where growth sets in is also seen without any interval, from a line that leaves zero.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # no covariance where no point grows; it is not used
        (onset, _), _ = optimize.curve_fit(_hinge, points["C"], points["rate"], (0, 0.5))
    where = f"point {first} (C = {points.loc[first, 'C']:.4f})" if first in points.index else "none"
    return Outcome(
        f"point {boundary}",
        where,
        verdict,
        f"a line that leaves zero, fitted to all points, does so at C = {onset:.4f}",
    )


def _hinge(c, onset, slope):
    return slope * np.maximum(0, onset - c)


@claim(
    "S6", "P", "parameters grow exponentially too, at the same rate",
    statistic="slope of ln ‖θ−θ_0‖_∞ and of ln ‖θ‖_∞ over ln(γ/√β), runs long enough for it",
    rule="every ratio within 10 % of 1, intervals included; long enough: when the window starts, e^{−rate·n} ≤ 0.05 and "
    "the bias correction changes by at most 5 % of the rate per step",
    experiment="growth", figure="fig2",
)  # fmt: skip
def _s6(e):
    runs = _unstable(e).dropna(subset=["window_start"])
    pair = {"beta1": runs["beta1"], "beta2": runs["beta2"]}
    n = runs["window_start"]
    drift = np.log(stability.prefactor(**pair, step=n + 1) / stability.prefactor(**pair, step=n))
    runs = runs[(np.exp(-runs["rate_exact"] * n) <= 0.05) & (np.abs(drift) <= 0.05 * runs["rate_exact"])]
    if runs.empty:
        return Outcome("1", "", INCONCLUSIVE, "no run is long enough")
    parts, verdicts = [], set()
    for column, name in (("displacement_rate", "‖θ−θ_0‖"), ("param_rate", "‖θ‖")):
        ratio = runs[column] / runs["rate_exact"]
        half = half_width(runs[f"{column}_se"], runs[f"{column}_df"]) / runs["rate_exact"]
        verdicts |= {within(r, h, 0.1) for r, h in zip(ratio - 1, half, strict=True)}
        parts.append(f"{name}: {ratio.min():.3f} to {ratio.max():.3f}")
    return Outcome("1", "; ".join(parts), worst(verdicts), f"{len(runs)} run(s) long enough")


@claim(
    "S10", "D", "rare coordinates carry the growth",
    statistic="share of the window's steps whose largest update is the row of a token unseen for at least 1/(1−β) steps, "
    "C < −0.01; difference of the mean rates, characters minus words",
    rule="share at least 90 % and the interval of the difference below 0", experiment="growth", figure="fig8",
)  # fmt: skip
def _s10(e):
    if _too_short(e):
        return Outcome("1; < 0", "", INCONCLUSIVE, _too_short(e))
    share, low, high = bootstrap(np.mean, _outside(e)["rare_share"])
    characters = e.table.query("variant == 'characters'").set_index(["point", "seed"])["rate"]
    words = _outside(e).set_index(["point", "seed"])["rate"].reindex(characters.index)
    difference, below, above = bootstrap(np.mean, (characters - words).dropna())
    verdicts = {decide(low, high, lambda x: x >= 0.9), decide(below, above, lambda x: x < 0)}
    verdict = worst(verdicts)
    return Outcome(
        "1; < 0", f"share {with_interval(share, low, high)}; difference {with_interval(difference, below, above, '.2g')}",
        verdict,
        f"mean rate {characters.mean():.2g} with characters, {words.mean():.2g} with words",
    )  # fmt: skip
