"""Claims S1-S6 and S10: the stable region and exponential growth (paper, section 3)."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize

from ctadam.analysis.rules import bootstrap, by_finite_runs, decide, finite, holds, number, with_interval, within, worst
from ctadam.analysis.slopes import half_width
from ctadam.analysis.verdicts import CONTRADICTED, INCONCLUSIVE, REPRODUCED, Evidence, Outcome, claim
from ctadam.storage.tables import sort_rows
from ctadam.theory import stability

#: A run counts as well outside the paper's region if C is below this. Closer to the boundary, 500 steps show little growth.
WELL_OUTSIDE = -0.01


def _curve(e: Evidence) -> pd.DataFrame:
    """Return the runs along the normal curve (ε = 0, float64 state), in descending order of C."""
    return sort_rows(e.table.query("variant == 'curve'"), ["C", "run"], ascending=[False, True])


def _outside(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs well outside the paper's stable region."""
    return runs.query("C < @WELL_OUTSIDE")


def _unstable(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are unstable by the exact law."""
    return runs.query("C_exact < 0")


def _window_growth(runs: pd.DataFrame) -> pd.Series:
    """Return for each run the natural logarithm of the growth factor that the exact law predicts over the window."""
    return runs["rate_exact"] * (runs["steps"] - runs["window_start"])


def _lost(runs: pd.DataFrame, *columns: str) -> pd.Series:
    """Return which runs are no evidence about growth, as `ctadam.analysis.rules.by_finite_runs` expects.

    A run outside the region may overflow because its updates grew. Its finite steps are evidence if they are enough for
    the predicted growth.

    Args:
        runs: DataFrame with one row per run.
        *columns: names of the measured columns that must be finite.

    Returns:
        Series of bool.
    """
    ended: Any = np.zeros(len(runs), dtype=bool)
    if "diverged_at" in runs:
        ended = (runs["diverged_at"] >= 0) & ~((runs["C"] < 0) & (_window_growth(runs) >= 1))
    return ended | ~np.isfinite(runs[list(columns)].astype(float)).all(axis=1)


def _too_short(runs: pd.DataFrame) -> str:
    """Return why these runs cannot show growth, or an empty string if they can.

    They can if the exact law predicts at least e-fold growth within the window for the median run.
    """
    outside = _outside(runs)
    if outside.empty:
        return f"no run with C < {WELL_OUTSIDE}"
    growth = float(_window_growth(outside).median())
    return "" if growth >= 1 else f"runs too short: predicted growth in the window is e^{growth:.2g}, not e^1"


def _by_long_runs(
    prediction: str, evidence: pd.DataFrame, lost: pd.Series, rule: Callable[[pd.DataFrame], Outcome]
) -> Outcome:
    """Judge a claim by its finite runs; inconclusive if they are too short to show growth.

    Args:
        prediction: text for the ledger.
        evidence: the finite runs, one row per run.
        lost: which of the judged runs are no evidence, see `_lost`.
        rule: function from ``evidence`` to an `Outcome`.
    """

    def judge(runs: pd.DataFrame) -> Outcome:
        why = _too_short(runs)
        return Outcome(prediction, "", INCONCLUSIVE, why) if why else rule(runs)

    return by_finite_runs(prediction, evidence, lost, judge, none=f"no run with C < {WELL_OUTSIDE}")


@claim(
    "S1",
    "P",
    "updates are bounded inside the stable region",
    statistic="max over runs with C > 0 (float64 state) and all n of the update over its bound",
    rule="at most 1 + 1e-9 for the paper's bound and for the exact one",
)
def _s1(e: Evidence) -> Outcome:
    stable = e.table.query("C > 0 and state_dtype == 'float64'").drop_duplicates("run")
    rows = e.runs[e.runs["run"].isin(stable["run"])]
    good = np.isfinite(rows["update_max"])
    if "diverged_at" in rows:
        # The update can be finite where the parameters overflow. At the first step it is ±1 and shows nothing.
        good &= rows["step"] != rows["diverged_at"]
    lost = ~finite(stable) | ~stable["run"].isin(rows.loc[good, "run"]) | stable["run"].isin(rows.loc[~good, "run"])

    def rule(rows: pd.DataFrame) -> Outcome:
        where = rows[["beta1", "beta2", "step"]]
        laws: tuple[stability.Law, ...] = ("paper", "exact")
        ratio = {law: float((rows["update_max"] / stability.update_bound(**where, law=law)).max()) for law in laws}
        # Adam's first update is ±1 and its bound is 1, so only later steps show how tight the bound is.
        later = rows[rows["step"] > 0]
        near = (later["update_max"] / stability.update_bound(**later[["beta1", "beta2", "step"]], law="exact")).max()
        value = f"{ratio['paper']:.10f} (paper), {ratio['exact']:.10f} (exact)"
        note = f"{len(stable)} runs; after the first step, where both are 1, at most {number(near, '.4f')} of the exact bound"
        return Outcome("≤ 1", value, holds(max(ratio.values()) <= 1 + 1e-9), note)

    return by_finite_runs("≤ 1", rows[good], lost, rule, none="no run with C > 0")


@claim(
    "S2",
    "P",
    "outside the stable region updates grow exponentially",
    statistic="median R² of ln(update/prefactor) on n, runs with C < −0.01, last 40 % of steps",
    rule="95 % interval over runs at least 0.98",
)
def _s2(e: Evidence) -> Outcome:
    def rule(runs: pd.DataFrame) -> Outcome:
        value, low, high = bootstrap(np.median, runs["rate_r_squared"])
        return Outcome("1", with_interval(value, low, high, ".4f"), decide(low, high, lambda x: x >= 0.98))

    outside = _outside(_curve(e))
    lost = _lost(outside, "rate_r_squared")
    return _by_long_runs("1", outside[~lost], lost, rule)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation coefficient, or NaN if all values of one argument are equal (as in some resamples)."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan


def _mean_error(a: ArrayLike, b: ArrayLike) -> float:
    """Return the mean absolute difference, or NaN if there are no values."""
    error = np.abs(np.asarray(a) - np.asarray(b))
    return float(error.mean()) if len(error) else np.nan


@claim(
    "S3",
    "P",
    "the growth rate is |C|/2",
    statistic="correlation over the curve's points of measured rate with |C|/2 (0 inside); mean error outside",
    rule="95 % interval over points of the correlation at least 0.99",
)
def _s3(e: Evidence) -> Outcome:
    def rule(runs: pd.DataFrame) -> Outcome:
        value, low, high = bootstrap(_correlation, runs["rate"], runs["rate_paper"])
        unstable, outside = _unstable(runs), _outside(runs)
        error = _mean_error(unstable["rate"], unstable["rate_paper"])
        relative = float((np.abs(outside["rate"] / outside["rate_paper"] - 1)).mean())
        return Outcome(
            "r = 1",
            f"r = {with_interval(value, low, high, '.4f')}",
            decide(low, high, lambda x: x >= 0.99),
            f"mean error {number(error, '.2g')} per step where C < 0; {relative:.1%} of the rate where C < {WELL_OUTSIDE}",
        )

    curve = _curve(e)
    lost = _lost(curve, "rate")
    return _by_long_runs("r = 1", curve[~lost], lost, rule)


@claim(
    "S4",
    "D",
    "the growth rate is exactly ln(γ/√β)",
    statistic="mean absolute error of the rate per step, points with γ² > β",
    rule="95 % interval over points at most 2e-4, and the error below S3's",
)
def _s4(e: Evidence) -> Outcome:
    def rule(runs: pd.DataFrame) -> Outcome:
        value, low, high = bootstrap(_mean_error, runs["rate"], runs["rate_exact"])
        papers = _mean_error(runs["rate"], runs["rate_paper"])
        verdict = decide(low, high, lambda x: x <= 2e-4)
        if verdict == REPRODUCED and not value < papers:
            verdict = CONTRADICTED
        held = _mean_error(runs["held_rate"], runs["rate_exact"])
        note = (
            f"with |C|/2 in its place {papers:.2e}; counting only steps at which the same row holds the maximum: "
            f"{number(held, '.2e')}"
        )
        return Outcome("0", with_interval(value, low, high, ".2e"), verdict, note)

    unstable = _unstable(_curve(e))
    lost = _lost(unstable, "rate")
    return _by_long_runs("0", unstable[~lost], lost, rule)


@claim(
    "S5",
    "P",
    "the change happens at the boundary C = 0",
    statistic="first point along the curve whose rate is above 0 (95 % intervals, simultaneous over the points)",
    rule="within two points of the first with C < 0; later is inconclusive where the intervals of the points between "
    "hold the predicted rates",
)
def _s5(e: Evidence) -> Outcome:
    curve = _curve(e)
    lost = _lost(curve, "rate", "rate_se", "rate_df")
    beyond = curve.loc[curve["C"] < 0, "point"]
    if beyond.empty:
        return Outcome("", "", INCONCLUSIVE, "no run with C < 0")
    boundary = int(beyond.min())

    def rule(runs: pd.DataFrame) -> Outcome:
        # With several seeds per point, take the mean rate and the larger of its two standard errors: the one between
        # seeds and the one of the fitted slopes.
        points = runs.groupby("point").agg(
            C=("C", "first"),
            rate=("rate", "mean"),
            predicted=("rate_exact", "first"),
            df=("rate_df", "min"),
            between=("rate", "sem"),
            within=("rate_se", lambda s: float(np.sqrt((s**2).sum()) / len(s))),
            seeds=("rate", "count"),
        )
        # Use the degrees of freedom of the standard error that was chosen.
        df = points["df"].where(~(points["between"] > points["within"]), points["seeds"] - 1)
        half = half_width(points[["between", "within"]].max(axis=1), df, 1 - 0.05 / len(points))
        above = points["rate"] - half > 0
        first = int(points.index[above][0]) if above.any() else int(curve["point"].max()) + 1
        between = points[(points.index > boundary + 2) & (points.index < first)]
        if above.any() and abs(first - boundary) <= 2:
            verdict = REPRODUCED
        elif len(between) and (np.abs(between["rate"] - between["predicted"]) <= half[between.index]).all():
            verdict = INCONCLUSIVE
        else:
            # Without a point further out than two, no run was required to grow.
            verdict = CONTRADICTED if above.any() or len(between) else INCONCLUSIVE
        where = f"point {first} (C = {points['C'].loc[first]:.4f})" if above.any() else "none"
        return Outcome(f"point {boundary}", where, verdict, _onset(points))

    # Points further out cannot be the first to grow, so losing them does not change the verdict.
    decisive = lost if lost.all() else lost & (curve["point"] <= boundary + 2)
    return _by_long_runs(f"point {boundary}", curve[~lost], decisive, rule)


def _onset(points: pd.DataFrame) -> str:
    """Return a note with the C at which growth sets in, by a hinge fitted to the rates of all points; no interval is used."""
    if len(points) < 2:
        return ""
    with warnings.catch_warnings():
        # If no point grows, the covariance cannot be estimated. It is not used.
        warnings.simplefilter("ignore", optimize.OptimizeWarning)
        (onset, _), _ = optimize.curve_fit(_hinge, points["C"], points["rate"], (0, 0.5))
    return f"a line that leaves zero, fitted to all points, does so at C = {onset:.4f}"


def _hinge(c: np.ndarray, onset: float, slope: float) -> np.ndarray:
    """Return a line of the given slope for c below ``onset``, and 0 above."""
    return slope * np.maximum(0, onset - c)


@claim(
    "S6",
    "P",
    "parameters grow exponentially too, at the same rate",
    statistic="slope of ln ‖θ−θ_0‖_∞ and of ln ‖θ‖_∞ over ln(γ/√β), runs long enough for it",
    rule="every ratio within 10 % of 1, intervals included; long enough: when the window starts, e^{−rate·n} ≤ 0.05 and "
    "the bias correction changes by at most 5 % of the rate per step",
)
def _s6(e: Evidence) -> Outcome:
    runs = _unstable(_curve(e))
    pair = {"beta1": runs["beta1"], "beta2": runs["beta2"]}
    n = runs["window_start"].fillna(0)  # a run without a window is not long enough
    drift = np.log(stability.prefactor(**pair, step=n + 1) / stability.prefactor(**pair, step=n))
    long = (np.exp(-runs["rate_exact"] * n) <= 0.05) & (np.abs(drift) <= 0.05 * runs["rate_exact"])
    columns = {"displacement_rate": "‖θ−θ_0‖", "param_rate": "‖θ‖"}
    lost = long & _lost(runs, *(f"{name}{part}" for name in columns for part in ("", "_se", "_df")))
    if "diverged_at" in runs:
        # A diverged run might have been long enough if it had not ended early.
        lost |= ~long & (runs["diverged_at"] >= 0)

    def rule(runs: pd.DataFrame) -> Outcome:
        parts: list[str] = []
        verdicts: set[str] = set()
        for column, name in columns.items():
            ratio = runs[column] / runs["rate_exact"]
            half = half_width(runs[f"{column}_se"], runs[f"{column}_df"]) / runs["rate_exact"]
            verdicts |= {within(r, h, 0.1) for r, h in zip(ratio - 1, half, strict=True)}
            parts.append(f"{name}: {ratio.min():.3f} to {ratio.max():.3f}")
        return Outcome("1", "; ".join(parts), worst(verdicts), f"{len(runs)} run(s) long enough")

    return by_finite_runs("1", runs[long & ~lost], lost, rule, none="no run is long enough")


@claim(
    "S10",
    "D",
    "rare coordinates carry the growth",
    statistic="share of the window's steps whose largest update is the row of a token unseen for at least 1/(1−β) steps, "
    "C < −0.01; difference of the mean rates, characters minus words",
    rule="share at least 90 % and the interval of the difference below 0",
    figure="fig8",
)
def _s10(e: Evidence) -> Outcome:
    words, characters = _outside(_curve(e)), e.table.query("variant == 'characters'")
    lost = _lost(words, "rare_share", "rate"), _lost(characters, "rate")

    def rule(words: pd.DataFrame) -> Outcome:
        share, low, high = bootstrap(np.mean, words["rare_share"])
        character_rates = characters[~lost[1]].set_index(["point", "seed"])["rate"]
        # NaN only where the partner with word tokens was lost.
        word_rates = words.set_index(["point", "seed"])["rate"].reindex(character_rates.index)
        difference, below, above = bootstrap(np.mean, (character_rates - word_rates).dropna())
        return Outcome(
            "1; < 0",
            f"share {with_interval(share, low, high)}; difference {with_interval(difference, below, above, '.2g')}",
            worst({decide(low, high, lambda x: x >= 0.9), decide(below, above, lambda x: x < 0)}),
            f"mean rate {number(character_rates.mean(), '.2g')} with characters, {number(word_rates.mean(), '.2g')} with words",
        )

    return _by_long_runs("1; < 0", words[~lost[0]], pd.concat(lost, ignore_index=True), rule)
