"""The ledger: every claim, what was predicted, what was measured, and the verdict by a rule fixed before the run.

A claim is one function below. It sees the raw runs, predictions and measurements of one scale and returns its outcome; the
decorator carries what the ledger says about it. Verdicts: ``reproduced``, ``contradicted``, and ``inconclusive``
where the interval covers both or the scale cannot decide. A contradicted claim is a result, not an error.

Sources: P the paper (arXiv 2411.05746), D derived here, R asked by a reviewer of the paper.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ctadam.errors import ArtifactError
from ctadam.measurements.slopes import half_width
from ctadam.store import read_csv, read_runs
from ctadam.theory import stability

REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"
COLUMNS = [
    "id", "source", "claim", "statistic", "prediction", "value", "rule", "verdict", "note", "figure", "command",
]  # fmt: skip

#: The paper's region is left behind where C is below this: closer to the boundary, 500 steps show little growth.
WELL_OUTSIDE = -0.01


@dataclass(frozen=True)
class Outcome:
    """What one claim came to: numbers as text, with the digits that mean something, and a verdict."""

    prediction: str
    value: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    id: str
    source: str
    text: str
    statistic: str
    rule: str
    experiment: str
    figure: str
    judge: object


CLAIMS = []


def _claim(id, source, text, *, statistic, rule, experiment, figure=""):
    def register(function):
        CLAIMS.append(Claim(id, source, text, statistic, rule, experiment, figure, function))
        return function

    return register


def _verdict(low, high, good):
    """Verdict for a statistic with an interval: ``good`` says whether a value satisfies the rule."""
    ends = {bool(good(low)), bool(good(high))}
    return INCONCLUSIVE if len(ends) == 2 else REPRODUCED if ends.pop() else CONTRADICTED


def _within(deviation, half, tolerance):
    """Verdict for "within ± tolerance", for a deviation known to ± half."""
    if abs(deviation) + half <= tolerance:
        return REPRODUCED
    return CONTRADICTED if abs(deviation) - half > tolerance else INCONCLUSIVE


def _worst(verdicts):
    """The verdict of a rule with several parts: contradicted if one is, reproduced only if all are."""
    return next((v for v in (CONTRADICTED, INCONCLUSIVE) if v in verdicts), REPRODUCED)


class Evidence:
    """The tables of one experiment in one results directory, read when first asked for."""

    def __init__(self, results, experiment):
        self.results, self.experiment = results, experiment

    @cached_property
    def runs(self):
        return read_runs(self.results, self.experiment)

    @cached_property
    def table(self):
        """Measurements with the predictions for the same runs beside them."""
        predictions = read_csv(self.results, self.experiment, "predictions")
        measurements = read_csv(self.results, self.experiment, "measurements")
        only = [c for c in predictions if c == "run" or c not in measurements]
        return measurements.merge(predictions[only], on="run", validate="one_to_one")

    # The selections that claims about the growth experiment share.

    @cached_property
    def curve(self):
        """The runs along the normal curve (ε = 0, float64 state), by falling C."""
        return self.table.query("variant == 'curve'").sort_values("C", ascending=False)

    @cached_property
    def outside(self):
        """Those of them well outside the stable region."""
        return self.curve.query("C < @WELL_OUTSIDE")

    @cached_property
    def too_short(self):
        """Why these runs cannot show growth, or an empty string: they must be predicted to grow e-fold in the window."""
        if self.outside.empty:
            return f"no run with C < {WELL_OUTSIDE}"
        window = self.outside["steps"] - self.outside["window_start"]
        growth = float((self.outside["rate_exact"] * window).median())
        return "" if growth >= 1 else f"runs too short: predicted growth in the window is e^{growth:.2g}, not e^1"


def _bootstrap(function, *columns):
    """95 % BCa interval of a statistic over runs, from 9,999 resamples with a fixed seed."""
    columns = tuple(np.asarray(c, dtype=np.float64) for c in columns)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            columns, function, paired=True, vectorized=False, n_resamples=9999, rng=np.random.default_rng(0)
        ).confidence_interval
    estimate = function(*columns)
    # BCa is undefined where all resamples agree; the statistic then has no spread to speak of.
    return tuple(float(x) if np.isfinite(x) else float(estimate) for x in (estimate, interval.low, interval.high))


def _interval(value, low, high, form=".3g"):
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


#: The learning rate of claims T1 and T2, and the number of steps from which on Adam's start-up is over: six times the
#: memory 1/(1−γ) of the usual first moment. Shorter runs are start-up only.
TRACKED_LR, SETTLED = 1e-3, 60


def _equation(order, kernel):
    names = {"paper": "the paper's kernel", "exact": "exact kernel"}
    return f"{'first' if order == 1 else 'second'} order with {names[kernel]}"


def _tracks(e, runs):
    """T1 and T2: the paper's equation, of second order with its kernel, after the last step."""
    runs = runs[np.isclose(runs["lr"], TRACKED_LR)]
    if runs.empty or runs["steps"].max() < SETTLED:
        return Outcome("0", "", INCONCLUSIVE, f"no run of {SETTLED} steps or more with lr {TRACKED_LR:g}")
    # A run that was not finite at its end tracks nothing.
    runs = runs.assign(error_end=runs["error_end"].fillna(np.inf))
    verdicts, values, notes = set(), [], []
    for model, group in runs.groupby("model"):
        papers = group.query("order == 2 and kernel == 'paper'")
        errors = papers["error_end"]
        verdicts.add(_verdict(errors.min(), errors.max(), lambda x: x <= 0.05))
        values.append(f"{model} {_interval(errors.mean(), errors.min(), errors.max())}")
        left = papers.loc[papers["above_from"] >= 0, "above_from"]
        means = group.groupby(["order", "kernel"])["error_end"].mean()
        notes.append(
            f"{model}: " + ("within 5 % to the end" if left.empty else f"above 5 % for good from step {int(left.min())} of "
            f"{papers['steps'].max()}") + f"; best {_equation(*means.idxmin())}, {means.min():.3g}"
        )  # fmt: skip
    return Outcome("0", "; ".join(values), _worst(verdicts), ". ".join(notes))


@_claim(
    "T1", "P", "the differential equation tracks Adam",
    statistic="‖θ_equation − θ_Adam‖ / ‖θ_Adam − θ_0‖, all weights, full batch, lr 1e-3, the paper's equation (second order, "
    "its kernel, started after the first average), after the last step: mean [range] over seeds",
    rule="at most 5 % for every model and seed; contradicted if every seed of a model exceeds it",
    experiment="trajectory", figure="fig1",
)  # fmt: skip
def _t1(e):
    return _tracks(e, e.table.query("variant == 'flow' and weight_decay == 0"))


@_claim(
    "T2", "P", "the differential equation tracks AdamW",
    statistic="as T1, with weight decay", rule="as T1, for every weight decay above 0", experiment="trajectory", figure="fig1",
)  # fmt: skip
def _t2(e):
    return _tracks(e, e.table.query("variant == 'flow' and weight_decay > 0"))


@_claim(
    "T3", "D", "p only relabels time",
    statistic="largest difference, over all steps and equations, of the solution in t = n·η^p from that in steps, relative to "
    "the distance travelled", rule="at most 5e-10, so that any two p differ by at most 1e-9", experiment="trajectory",
)  # fmt: skip
def _t3(e):
    runs = e.table.query("variant == 'relabelled'")
    if runs.empty:
        return Outcome("0", "", INCONCLUSIVE, "no run with p other than 0")
    value = float(runs["p_difference_max"].max(skipna=False))
    powers = ", ".join(f"{p:g}" for p in sorted(runs["p"].unique()))
    return Outcome("0", f"{value:.1e}", REPRODUCED if value <= 5e-10 else CONTRADICTED, f"p = {powers}")


def _log_slope(runs, column):
    """Slope of ln(error) on ln(lr) over runs, with its 95 % interval."""
    runs = runs[np.isfinite(runs[column]) & (runs[column] > 0)]
    if len(runs) < 3 or runs["lr"].nunique() < 2:
        return np.nan, -np.inf, np.inf
    fit = stats.linregress(np.log(runs["lr"]), np.log(runs[column]))
    half = half_width(fit.stderr, len(runs) - 2)
    return fit.slope, fit.slope - half, fit.slope + half


@_claim(
    "T4", "R", "the error falls with the learning rate; second order against first",
    statistic="slope of ln(T1's error) on ln(lr) over learning rates and seeds, per model and equation, no weight decay, 95 % "
    "interval", rule="every interval above 0; contradicted if one lies below", experiment="trajectory", figure="fig1",
)  # fmt: skip
def _t4(e):
    runs = e.table.query("variant == 'flow' and weight_decay == 0")
    runs = runs.assign(error_end=runs["error_end"].fillna(np.inf))
    if runs.empty or runs["steps"].max() < SETTLED:
        return Outcome("> 0", "", INCONCLUSIVE, f"no run of {SETTLED} steps or more")
    verdicts, values, notes = set(), [], []
    for model, group in runs.groupby("model"):
        slopes = {key: _log_slope(some, "error_end") for key, some in group.groupby(["order", "kernel"])}
        verdicts |= {_verdict(low, high, lambda x: x > 0) for _, low, high in slopes.values()}
        values.append(
            f"{model}: " + ", ".join(f"{_equation(*key)} {_interval(*slope, '.2f')}" for key, slope in slopes.items())
        )
        table = group.pivot_table(index=["order", "kernel"], columns="lr", values="error_end")
        best = ", ".join(f"{_equation(*table[lr].idxmin())} at lr {lr:g} ({table[lr].min():.2g})" for lr in table)
        notes.append(f"{model}: best {best}")
    return Outcome("> 0", "; ".join(values), _worst(verdicts), ". ".join(notes))


@_claim(
    "S1", "P", "updates are bounded inside the stable region",
    statistic="max over runs with C > 0 (float64 state) and all n of the update over its bound",
    rule="at most 1 + 1e-9 for the paper's bound and for the exact one", experiment="growth", figure="fig2",
)  # fmt: skip
def _s1(e):
    stable = e.table.query("C > 0 and state_dtype == 'float64'")["run"]
    runs = e.runs[e.runs["run"].isin(stable) & np.isfinite(e.runs["update_max"])]
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


@_claim(
    "S2", "P", "outside the stable region updates grow exponentially",
    statistic="median R² of ln(update/prefactor) on n, runs with C < −0.01, last 40 % of steps",
    rule="95 % interval over runs at least 0.98", experiment="growth", figure="fig2",
)  # fmt: skip
def _s2(e):
    if e.too_short:
        return Outcome("1", "", INCONCLUSIVE, e.too_short)
    value, low, high = _bootstrap(np.median, e.outside["rate_r_squared"])
    return Outcome("1", _interval(value, low, high, ".4f"), _verdict(low, high, lambda x: x >= 0.98))


def _correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def _mean_error(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).mean())


def _unstable(e):
    """Runs along the curve that the exact law calls unstable."""
    return e.curve.query("C_exact < 0")


@_claim(
    "S3", "P", "the growth rate is |C|/2",
    statistic="correlation over the curve's points of measured rate with |C|/2 (0 inside); mean error outside",
    rule="95 % interval over points of the correlation at least 0.99", experiment="growth", figure="fig2",
)  # fmt: skip
def _s3(e):
    if e.too_short:
        return Outcome("r = 1", "", INCONCLUSIVE, e.too_short)
    value, low, high = _bootstrap(_correlation, e.curve["rate"], e.curve["rate_paper"])
    outside = _unstable(e)
    error = _mean_error(outside["rate"], outside["rate_paper"])
    relative = float((np.abs(e.outside["rate"] / e.outside["rate_paper"] - 1)).mean())
    return Outcome(
        "r = 1", f"r = {_interval(value, low, high, '.4f')}", _verdict(low, high, lambda x: x >= 0.99),
        f"mean error {error:.2g} per step where C < 0; {relative:.1%} of the rate where C < {WELL_OUTSIDE}",
    )  # fmt: skip


@_claim(
    "S4", "D", "the growth rate is exactly ln(γ/√β)",
    statistic="mean absolute error of the rate per step, points with γ² > β",
    rule="95 % interval over points at most 2e-4, and the error below S3's", experiment="growth", figure="fig2",
)  # fmt: skip
def _s4(e):
    if e.too_short:
        return Outcome("0", "", INCONCLUSIVE, e.too_short)
    outside = _unstable(e)
    value, low, high = _bootstrap(_mean_error, outside["rate"], outside["rate_exact"])
    papers = _mean_error(outside["rate"], outside["rate_paper"])
    verdict = _verdict(low, high, lambda x: x <= 2e-4)
    if verdict == REPRODUCED and not value < papers:
        verdict = CONTRADICTED
    held = _mean_error(outside["held_rate"], outside["rate_exact"])
    return Outcome(
        "0", _interval(value, low, high, ".2e"), verdict,
        f"with |C|/2 in its place {papers:.2e}; counting only steps at which the same row holds the maximum: {held:.2e}",
    )  # fmt: skip


@_claim(
    "S5", "P", "the change happens at the boundary C = 0",
    statistic="first point along the curve whose rate is above 0 (95 % intervals, simultaneous over the points)",
    rule="within two points of the first with C < 0; later is inconclusive where the intervals of the points between "
    "hold the predicted rates",
    experiment="growth", figure="fig2",
)  # fmt: skip
def _s5(e):
    if e.too_short:
        return Outcome("", "", INCONCLUSIVE, e.too_short)
    # Several seeds at a point: the mean rate, with the larger of the two ways to see its spread.
    points = e.curve.groupby("point").agg(
        C=("C", "first"), rate=("rate", "mean"), predicted=("rate_exact", "first"), df=("rate_df", "min"),
        between=("rate", "sem"), within=("rate_se", lambda s: float(np.sqrt((s**2).sum()) / len(s))),
    )  # fmt: skip
    half = half_width(points[["between", "within"]].max(axis=1), points["df"], 1 - 0.05 / len(points))
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


@_claim(
    "S6", "P", "parameters grow exponentially too, at the same rate",
    statistic="slope of ln ‖θ−θ_0‖_∞ and of ln ‖θ‖_∞ over ln(γ/√β), runs long enough for it",
    rule="every ratio within 10 % of 1, intervals included; long enough: when the window starts, e^{−rate·n} ≤ 0.05 and "
    "the bias correction changes by at most 5 % of the rate per step",
    experiment="growth", figure="fig2",
)  # fmt: skip
def _s6(e):
    runs = e.table.query("C_exact < 0 and eps == 0 and state_dtype == 'float64' and tokens == 'words'")
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
        verdicts |= {_within(r, h, 0.1) for r, h in zip(ratio - 1, half, strict=True)}
        parts.append(f"{name}: {ratio.min():.3f} to {ratio.max():.3f}")
    return Outcome("1", "; ".join(parts), _worst(verdicts), f"{len(runs)} run(s) long enough")


@_claim(
    "S7", "D", "the exact bound is attained, and never exceeded",
    statistic="update over exact bound: worst-case gradients (min, max), random gradients (max)",
    rule="worst case within 1 ± 1e-9; random at most 1 + 1e-9", experiment="tightness", figure="fig7",
)  # fmt: skip
def _s7(e):
    ratio = e.table["update"] / e.table["bound_exact"]
    worst, random = ratio[e.table["kind"] == "worst"], ratio[e.table["kind"] == "random"]
    value = f"1 {worst.min() - 1:+.1e} to 1 {worst.max() - 1:+.1e}; random ≤ {random.max():.6f}"
    good = np.abs(worst - 1).max() <= 1e-9 and random.max() <= 1 + 1e-9
    return Outcome("1; ≤ 1", value, REPRODUCED if good else CONTRADICTED, f"{len(worst):,} draws of each")


@_claim(
    "S8", "D", "between the two laws (C < 0 but γ² < β) updates stay bounded",
    statistic="update over exact bound, worst-case gradients, pairs between the laws (max)",
    rule="at most 1 + 1e-9; inconclusive unless the paper's law lets some of these runs grow e-fold",
    experiment="tightness", figure="fig7",
)  # fmt: skip
def _s8(e):
    runs = e.table.query("kind == 'wedge'")
    growth = -runs["C"] / 2 * (runs["step"] + 1)
    if not (growth >= 1).any():
        return Outcome("≤ 1", "", INCONCLUSIVE, "runs too short for the paper's law to allow an e-fold growth")
    ratio = float((runs["update"] / runs["bound_exact"]).max())
    share, over_limit = float((growth >= 1).mean()), float((runs["update"] / runs["limit_exact"]).max())
    return Outcome(
        "≤ 1", f"1 {ratio - 1:+.1e}", REPRODUCED if ratio <= 1 + 1e-9 else CONTRADICTED,
        f"{len(runs):,} draws; the paper's law lets {share:.0%} of them grow e-fold or more, up to e^{growth.max():.3g}; "
        f"largest update {runs['update'].max():.3g}, over the exact bound's limit at most {over_limit:.4g}",
    )  # fmt: skip


@_claim(
    "S9", "R", "learning rate, noise and weight decay do not move the guarantee",
    statistic="runs on a convex quadratic, all over the square of pairs, whose update exceeds its bound at any step: the exact "
    "one, or the paper's where C > 0",
    rule="none, with a relative tolerance of 1e-9", experiment="quadratic", figure="fig6",
)  # fmt: skip
def _s9(e):
    runs = e.runs.merge(read_csv(e.results, e.experiment, "predictions"), on=["beta1", "beta2"], validate="many_to_one")
    broken = (runs["ratio_exact"] > 1 + 1e-9) | ((runs["C"] > 0) & (runs["ratio_paper"] > 1 + 1e-9))
    outside = runs[runs["C"] < 0]
    large = outside.groupby("sweep", sort=False)["update_max"].agg(lambda u: float((u > 10).mean()))
    by_lr = (runs["sweep"] == "lr").sum()
    return Outcome(
        "0", f"{int(broken.sum()):,} of {len(runs):,}", CONTRADICTED if broken.any() else REPRODUCED,
        f"{by_lr:,} runs over learning rates, {len(runs) - by_lr:,} with noise or decay; where C < 0, updates above 10 in "
        + ", ".join(f"{share:.1%} ({sweep.replace('_', ' ')})" for sweep, share in large.items())
        + f"; there {int((outside['ratio_paper'] > 1 + 1e-9).sum()):,} runs exceed the paper's bound, by a factor of up to "
        f"{outside['ratio_paper'].max():.4g}",
    )  # fmt: skip


@_claim(
    "E1", "D", "ε > 0 caps the growth, and float32 state ends it",
    statistic="ln of the largest update's ratio between the two smallest ε > 0 (float64 state), one unstable pair; largest "
    "update with ε = 0, float32 over float64 state",
    rule="the first within 10 % of the prediction (b−a)/b · ln(ε ratio), a = −ln γ, b = −½ ln β; the second below 1/2",
    experiment="growth",
)  # fmt: skip
def _e1(e):
    runs = e.table.query("variant == 'epsilon'")
    double = runs.query("state_dtype == 'float64' and eps > 0").groupby("eps")[["peak", "cap", "cap_unseen"]].mean()
    plain = runs.query("eps == 0").groupby("state_dtype")["peak"].mean()
    if len(double) < 2 or len(plain) < 2:
        return Outcome("", "", INCONCLUSIVE, "needs two ε > 0, and ε = 0 with both state precisions")
    small, large = double.iloc[0], double.iloc[1]
    # The time of the cap for gradients whose mean square is 1; smaller gradients meet ε sooner.
    if runs["steps"].min() < small["cap_unseen"]:
        return Outcome(
            "", "", INCONCLUSIVE, f"too short: the cap can come up to {small['cap_unseen']:.0f} steps after a token"
        )
    predicted, measured = float(np.log(small["cap"] / large["cap"])), float(np.log(small["peak"] / large["peak"]))
    ratio = float(plain["float32"] / plain["float64"])
    good = abs(measured / predicted - 1) <= 0.1 and ratio < 0.5
    return Outcome(
        f"{predicted:.3g}; < 1", f"{measured:.3g}; {ratio:.2g}", REPRODUCED if good else CONTRADICTED,
        f"largest updates {small['peak']:.3g} and {large['peak']:.3g} with ε = {double.index[0]:g} and {double.index[1]:g}; "
        f"{plain['float64']:.3g} with ε = 0",
    )  # fmt: skip


@_claim(
    "S10", "D", "rare coordinates carry the growth",
    statistic="share of the window's steps whose largest update is the row of a token unseen for at least 1/(1−β) steps, "
    "C < −0.01; difference of the mean rates, characters minus words",
    rule="share at least 90 % and the interval of the difference below 0", experiment="growth",
)  # fmt: skip
def _s10(e):
    if e.too_short:
        return Outcome("1; < 0", "", INCONCLUSIVE, e.too_short)
    share, low, high = _bootstrap(np.mean, e.outside["rare_share"])
    characters = e.table.query("variant == 'characters'").set_index(["point", "seed"])["rate"]
    words = e.outside.set_index(["point", "seed"])["rate"].reindex(characters.index)
    difference, below, above = _bootstrap(np.mean, (characters - words).dropna())
    verdicts = {_verdict(low, high, lambda x: x >= 0.9), _verdict(below, above, lambda x: x < 0)}
    verdict = _worst(verdicts)
    return Outcome(
        "1; < 0", f"share {_interval(share, low, high)}; difference {_interval(difference, below, above, '.2g')}", verdict,
        f"mean rate {characters.mean():.2g} with characters, {words.mean():.2g} with words",
    )  # fmt: skip


def judge(results):
    """Judge every claim from the results of one scale.

    Args:
        results: directory of one scale, such as ``results/fresh/laptop``.

    Returns:
        DataFrame with `COLUMNS`, a row a claim.

    Raises:
        ArtifactError: an experiment's tables are missing or damaged.
    """
    results = Path(results)
    if not results.is_dir():
        raise ArtifactError(f"no results in {results}")
    evidence, rows = {}, []
    for claim in CLAIMS:
        outcome = claim.judge(evidence.setdefault(claim.experiment, Evidence(results, claim.experiment)))
        rows.append(
            {
                "id": claim.id, "source": claim.source, "claim": claim.text, "statistic": claim.statistic,
                "prediction": outcome.prediction, "value": outcome.value, "rule": claim.rule,
                "verdict": outcome.verdict, "note": outcome.note, "figure": claim.figure,
                "command": f"snakemake --cores 1 {claim.figure or 'claims'}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def beside(ledger, shipped):
    """The ledger with the shipped values in a column ``shipped`` before its own.

    Args:
        ledger: from `judge`.
        shipped: path of the shipped ledger.
    """
    try:
        other = pd.read_csv(shipped, keep_default_na=False).set_index("id")["value"]
    except (OSError, KeyError, pd.errors.ParserError) as error:
        raise ArtifactError(f"cannot read the shipped ledger {shipped}: {error}") from error
    ledger = ledger.copy()
    ledger.insert(ledger.columns.get_loc("value"), "shipped", ledger["id"].map(other).fillna(""))
    return ledger


def as_text(ledger):
    """The ledger for a terminal: a few lines a claim, verdicts in a column that can be scanned."""
    lines = []
    for row in ledger.to_dict("records"):
        lines.append(f"{row['id']:<4} {row['verdict']:<13} [{row['source']}] {row['claim']}")
        shipped = f"  (shipped: {row['shipped']})" if row.get("shipped") else ""
        if row["value"]:
            lines.append(f"{'':18} predicted {row['prediction']}; measured {row['value']}{shipped}")
        if row["note"]:
            lines.append(f"{'':18} {row['note']}")
    counts = ledger["verdict"].value_counts()
    total = ", ".join(f"{counts.get(v, 0)} {v}" for v in (REPRODUCED, CONTRADICTED, INCONCLUSIVE))
    return "\n".join([*lines, f"{len(ledger)} claims: {total}"])
