"""Claims S1-S6, S10, S11, S14 and S15: the stable region and exponential growth (paper, section 3)."""

import itertools

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ctadam.analysis.rules import MIN_SEEDS, all_undecided, finite, max_or_inf, mean_over_seeds, over_runs
from ctadam.analysis.verdicts import (
    Evidence,
    Judgement,
    Level,
    above,
    at_least,
    at_most,
    below,
    claim,
    exact,
    overlaps,
    undecided,
    within,
)
from ctadam.experiments.growth.measure import held, log_update
from ctadam.theory import stability

#: A run counts as well outside the paper's region if C is below this. Closer to the boundary, 500 steps show little growth.
WELL_OUTSIDE = -0.01
#: Upper ends of C for the two parts of S6.
DISPLACEMENT, PARAMETER = ("‖θ_n − θ_0‖", -0.012), ("‖θ_n‖", -0.028)
#: Number of points across the boundary to which the hinge of S5 is fitted.
ACROSS = 20
#: Pairs (β, γ) in common use (S11).
USUAL_PAIRS = ((0.999, 0.9), (0.99, 0.9), (0.95, 0.9), (0.95, 0.95))


def _curve(e: Evidence) -> pd.DataFrame:
    """Return the runs along the normal curve."""
    return e.table[e.table["variant"] == "curve"]


def _well_outside(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs well outside the paper's stable region."""
    return runs[runs["C"] < WELL_OUTSIDE]


def _too_short(runs: pd.DataFrame) -> str:
    """Return why these runs cannot show growth, or an empty string if they can.

    They can if the exact law predicts at least e-fold growth within the window for the median run outside the region.
    """
    outside = _well_outside(runs).dropna(subset=["window_start"])
    if outside.empty:
        return f"no finite run with C < {WELL_OUTSIDE}"
    growth = float((outside["rate_exact"] * (outside["steps"] - outside["window_start"])).median())
    return "" if growth >= 1 else f"runs too short: predicted growth in the window is e^{growth:.2g}, not e^1"


def _seed_means(values: pd.Series, runs: pd.DataFrame) -> pd.Series:
    """Return the mean of the values of each seed's runs."""
    return values.groupby(runs["seed"]).mean()


#: Condition that the rules about growth share.
_UNLESS_SHORT = "; inconclusive if the law predicts less than e-fold growth in the window"


@claim(
    "S1",
    "P",
    "updates are bounded inside",
    statistic="largest update over its bound, over all steps and all runs with C > 0 and float64 state, for both laws",
    rule="at most 1 + 1e-9 for the paper's bound and for the exact one",
    target={"paper's bound": at_most(1 + 1e-9), "exact bound": at_most(1 + 1e-9)},
    columns=("update_max", "C"),
    form=".6g",
    figure="fig10",
)
def _s1(e: Evidence) -> Judgement:
    stable = e.table[(e.table["C"] > 0) & (e.table["state_dtype"] == "float64")]
    rows = e.runs[e.runs["run"].isin(stable["run"])]
    # The update can be finite where the parameters overflow.
    good = np.isfinite(rows["update_max"]) & (rows["step"] != rows["diverged_at"])
    lost = int((~finite(stable) | stable["run"].isin(rows.loc[~good, "run"])).sum())
    rows = rows[good]
    if rows.empty:
        why = "no finite run" if lost else "no run with C > 0"
        return Judgement(all_undecided(why, parts=("paper's bound", "exact bound"), lost=lost))
    pairs = {name: rows[name].to_numpy() for name in ("beta1", "beta2", "step")}
    updates = rows["update_max"].to_numpy()
    laws: tuple[stability.Law, ...] = ("paper", "exact")
    ratio = {law: updates / stability.update_bound(**pairs, law=law) for law in laws}
    levels = [
        exact(max_or_inf(ratio["paper"]), part="paper's bound", lost=lost),
        exact(max_or_inf(ratio["exact"]), part="exact bound", lost=lost),
    ]
    # Update and bound are 1 at the first step, and the next few gradients resemble each other. Only later steps show more.
    later = ratio["exact"][pairs["step"] >= (pairs["step"].max() + 1) // 2]
    return Judgement(
        levels,
        {"runs": len(stable), "largest share of the exact bound in the second half of the steps": float(later.max())},
    )


@claim(
    "S2",
    "P",
    "outside, updates grow exponentially",
    statistic="median over runs with C < −0.01 of R² of ln(u/prefactor) on n, over the last 40 % of the steps",
    rule=f"95 % interval over runs at least 0.98{_UNLESS_SHORT}",
    target=at_least(0.98),
    columns=("rate_r_squared", "C"),
    form=".4f",
    figure="fig10",
)
def _s2(e: Evidence) -> Judgement:
    curve = _curve(e)
    runs = _well_outside(curve)
    good = finite(runs, "rate_r_squared")
    lost = int((~good).sum())
    why = _too_short(curve)
    return Judgement(
        all_undecided(why, lost=lost) if why else [over_runs(np.median, runs.loc[good, "rate_r_squared"], lost=lost)]
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the correlation coefficient, or NaN if all values of one argument are equal (as in some resamples)."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan


def _slope_on(runs: pd.DataFrame, prediction: str) -> list[float]:
    """Return the least-squares slope of the held rate on a prediction for each seed that has all points."""
    points = runs["point"].nunique()
    return [
        float(stats.linregress(rows[prediction], rows["held_rate"]).slope)
        for _, rows in runs.groupby("seed")
        if len(rows) == points > 1
    ]


@claim(
    "S3",
    "P",
    "the growth rate is |C|/2",
    statistic="(a) correlation over the curve's points of the slope of ln(u/prefactor) in the last 40 % of the steps, mean "
    "over seeds, with |C|/2 (0 inside), interval by bootstrap over points; (b) least-squares slope of the held rate (median "
    "growth per step where the same row holds the largest update) on |C|/2 over the points with C < −0.01, interval over seeds",
    rule=f"correlation at least 0.99 and slope within 10 % of 1{_UNLESS_SHORT}",
    target={"correlation": at_least(0.99), "slope": within(0.1)},
    columns=("rate", "held_rate", "rate_paper"),
    form=".4f",
)
def _s3(e: Evidence) -> Judgement:
    curve = _curve(e)
    good = finite(curve, "rate", "held_rate")
    runs, lost = curve[good], int((~good).sum())
    why = _too_short(curve)
    if why:
        return Judgement(all_undecided(why, parts=("correlation", "slope"), lost=lost))
    points = runs.groupby("point")[["rate", "rate_paper"]].mean()
    outside = _well_outside(runs)
    lost_outside = len(_well_outside(curve)) - len(outside)
    slopes = {law: _slope_on(outside, f"rate_{law}") for law in ("paper", "exact")}
    return Judgement(
        [
            over_runs(_correlation, points["rate"], points["rate_paper"], part="correlation", lost=lost),
            mean_over_seeds(slopes["paper"], part="slope", lost=lost_outside),
        ],
        {"slope on the exact law's rate": float(np.mean(slopes["exact"])) if slopes["exact"] else np.nan},
    )


@claim(
    "S4",
    "D",
    "where gradients stop, the rate is exactly ln(γ/√β)",
    statistic="median growth per step of ln(u/prefactor) over the steps of the last 40 % at which the same row holds the "
    "largest update as one step before, minus ln(γ/√β); mean over seeds; levels: the points beyond the second one past C = 0",
    rule=f"absolute difference at most 1e-4, interval included{_UNLESS_SHORT}",
    target=within(1e-4, of=0.0),
    columns=("held_rate", "rate_exact"),
    form=".2g",
)
def _s4(e: Evidence) -> Judgement:
    curve = _curve(e)
    beyond = sorted(curve.loc[curve["C"] < 0, "point"].unique())[2:]
    why = _too_short(curve)
    levels: list[Level] = []
    for point in beyond:
        runs = curve[curve["point"] == point]
        good = finite(runs, "held_rate")
        name, lost = f"C = {runs['C'].iloc[0]:.4f}".replace("-", "−"), int((~good).sum())
        difference = (runs["held_rate"] - runs["rate_exact"])[good]
        levels.append(undecided(why, name, lost=lost) if why else mean_over_seeds(difference, name, lost=lost))
    if not levels:
        return Judgement(all_undecided("no point beyond the second one past C = 0"))
    runs = curve[curve["point"].isin(beyond)]
    papers = (runs["held_rate"] - runs["rate_paper"]).abs().median()
    return Judgement(
        levels,
        {
            "median absolute difference from |C|/2": float(papers),
            "mean share of steps with the same row": float(runs["held_share"].mean()),
        },
    )


def onset(c: ArrayLike, rates: ArrayLike) -> NDArray[np.float64]:
    """Return the C below which rates rise from 0, by least squares: rate = slope · max(0, onset − C) with slope ≥ 0.

    Args:
        c: C of the points, shape (n,).
        rates: shape (..., n), in the same order.

    Returns:
        Array of shape (...), to a two-thousandth of the range of C. The smallest C if the rates do not rise.
    """
    c, rates = np.asarray(c, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    candidates = np.linspace(c.min(), c.max(), 2_001)
    rise = np.maximum(0.0, candidates[:, None] - c)
    square = (rise**2).sum(axis=1)
    # The best slope for a candidate explains (Σ rise·rate)² / Σ rise² of the sum of squares.
    product = np.maximum(0.0, rates @ rise.T)
    explained = np.divide(product**2, square, out=np.zeros_like(product), where=square > 0)
    return candidates[explained.argmax(axis=-1)]


def onset_interval(c: ArrayLike, rates: ArrayLike) -> tuple[float, float, float]:
    """Return the `onset` of the mean rates with its 95 % interval by bootstrap over seeds.

    Every possible resample of the seeds is fitted, weighted by its probability, so nothing is drawn at random.

    Args:
        c: C of the points, shape (n,).
        rates: shape (seeds, n).

    Returns:
        ``(estimate, low, high)``.
    """
    rates = np.asarray(rates, dtype=np.float64)
    seeds = len(rates)
    counts = np.array(
        [
            np.bincount(chosen, minlength=seeds)
            for chosen in itertools.combinations_with_replacement(range(seeds), seeds)
        ]
    )
    weights = stats.multinomial.pmf(counts, seeds, np.full(seeds, 1 / seeds))
    values = onset(c, counts @ rates / seeds)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    low, high = (float(values[order][np.searchsorted(total, share)]) for share in (0.025, 0.975 - 1e-12))
    return float(onset(c, rates.mean(axis=0))), low, high


def boundary_points(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the held rates of the points across C = 0, one row per seed and one column per C; incomplete seeds are left out.

    Args:
        curve: joined table of the runs along the curve.
    """
    boundary = int(curve.loc[curve["C"] >= 0, "point"].max()) if (curve["C"] >= 0).any() else -1
    across = curve[curve["point"].between(boundary + 1 - ACROSS // 2, boundary + ACROSS // 2)]
    across = across[finite(across, "held_rate")]
    return across.pivot(index="seed", columns="C", values="held_rate").dropna()


@claim(
    "S5",
    "P",
    "the change happens at C = 0",
    statistic="C at which a hinge, fitted to the held rates of the 20 points across C = 0, leaves 0, in units of half the "
    "mean spacing of these points in C; bootstrap over seeds",
    rule=f"95 % interval overlaps 0 ± half the spacing{_UNLESS_SHORT}",
    target=overlaps(-1.0, 1.0),
    columns=("held_rate", "C"),
)
def _s5(e: Evidence) -> Judgement:
    curve = _curve(e)
    rates = boundary_points(curve)
    points = len(rates.columns)
    # The points that are run with every seed; those of stable points with one seed are not lost.
    judged = curve[curve["C"].isin(rates.columns)] if len(rates) else curve
    lost = int((~finite(judged, "held_rate")).sum())
    why = _too_short(curve)
    if not why and points < ACROSS:
        why = f"{points} points across C = 0, not {ACROSS}"
    if not why and len(rates) < MIN_SEEDS:
        why = f"{len(rates)} seed{'s' * (len(rates) != 1)} with all points; an interval needs {MIN_SEEDS}"
    if why:
        return Judgement(all_undecided(why, lost=lost))
    c = rates.columns.to_numpy(dtype=np.float64)
    half = float(np.ptp(c)) / (points - 1) / 2
    estimate, low, high = onset_interval(c, rates)
    return Judgement(
        [Level(estimate / half, low / half, high / half, n=len(rates), lost=lost)],
        {"onset in C": estimate, "half the spacing in C": half},
    )


@claim(
    "S6",
    "P",
    "parameters grow at the same rate",
    statistic="slope of ln ‖θ_n − θ_0‖_∞ over the last 40 % of the steps (C < −0.012), and of ln ‖θ_n‖_∞ (C < −0.028), each "
    "over the slope of ln Σ_j prefactor_j e^{rj} in the same window, r = ln(γ/√β); mean over points, interval over seeds",
    rule=f"each within 10 % of 1{_UNLESS_SHORT}",
    target={DISPLACEMENT[0]: within(0.1), PARAMETER[0]: within(0.1)},
    columns=("displacement_rate", "param_rate", "displacement_rate_exact"),
    figure="fig10",
)
def _s6(e: Evidence) -> Judgement:
    curve = _curve(e)
    why = _too_short(curve)
    levels: list[Level] = []
    for (part, below_c), column in ((DISPLACEMENT, "displacement_rate"), (PARAMETER, "param_rate")):
        runs = curve[curve["C"] < below_c]
        good = finite(runs, column)
        ratio = (runs[column] / runs["displacement_rate_exact"])[good]
        lost = int((~good).sum())
        levels.append(
            undecided(why, part=part, lost=lost)
            if why
            else mean_over_seeds(_seed_means(ratio, runs[good]), part=part, lost=lost)
        )
    return Judgement(levels)


def _halves(difference: pd.Series) -> dict[str, float]:
    """Return the mean difference at the half of the points nearer to C = 0 and at the other half.

    Args:
        difference: one number per point and seed, indexed by both. Points are counted from the stable end.
    """
    points = difference.index.get_level_values("point")
    near = points < np.median(np.unique(points))
    return {
        "difference at the points nearer to C = 0": float(difference[near].mean()),
        "difference at the other points": float(difference[~near].mean()),
    }


@claim(
    "S10",
    "D",
    "rare coordinates carry the growth",
    statistic="mean slope of ln(u/prefactor) in the last 40 % of the steps with word tokens, minus that with character "
    "tokens, over the same points with C < −0.01; interval over seeds",
    rule=f"95 % interval above 0{_UNLESS_SHORT}",
    target=above(0.0),
    columns=("rate", "tokenization"),
    figure="fig8",
)
def _s10(e: Evidence) -> Judgement:
    both = pd.concat([_well_outside(_curve(e)), e.table[e.table["variant"] == "characters"]])
    good = finite(both, "rate")
    why, lost = _too_short(_curve(e)), int((~good).sum())
    rates = both[good].pivot(index=["point", "seed"], columns="tokenization", values="rate")
    if not why and not {"words", "characters"} <= set(rates):
        why = "no run with characters" if "words" in rates else "no finite run"
    if why:
        return Judgement(all_undecided(why, lost=lost))
    rates = rates.dropna()
    difference = (rates["words"] - rates["characters"]).groupby("seed").mean()
    return Judgement(
        [mean_over_seeds(difference, lost=lost)],
        {f"mean rate with {tokens}": float(rates[tokens].mean()) for tokens in ("words", "characters")}
        | _halves(rates["words"] - rates["characters"]),
    )


@claim(
    "S11",
    "P",
    "the pairs in common use lie inside",
    statistic="C of (β, γ) = (0.999, 0.9), (0.99, 0.9), (0.95, 0.9), (0.95, 0.95); levels: pairs",
    rule="above 0",
    target=above(0.0),
    columns=("C",),
)
def _s11(e: Evidence) -> Judgement:
    return Judgement(
        [
            exact(float(stability.stability_coefficient(beta1=gamma, beta2=beta)), f"({beta:g}, {gamma:g})")
            for beta, gamma in USUAL_PAIRS
        ]
    )


def _recipe(e: Evidence) -> pd.DataFrame:
    """Return the runs of the recipe with its own ε, which comes first."""
    rule = e.table[e.table["variant"] == "rule"].sort_values("run", kind="stable")
    return rule[rule["eps"] == rule["eps"].iloc[0]] if len(rule) else rule


def held_growth(steps: pd.DataFrame, cap_unseen: float) -> float:
    """Return the median growth per step of ln(u/prefactor) of a row whose token is unseen and that ε does not reach yet.

    An embedding row has no gradients while its token is unseen. A row of the output layer has small ones.

    Args:
        steps: raw rows of one run.
        cap_unseen: predicted number of unseen steps at which ε ends the growth.

    Returns:
        Median over the steps at which the same row holds the largest update as one step before, and has been unseen for more
        than 1/(1−β₁) and less than half of ``cap_unseen`` steps. NaN if there are none.
    """
    steps = steps[steps["step"] != steps["diverged_at"]]
    if steps.empty:
        return float("nan")
    chosen = held(steps) & (steps["unseen"] > 1 / (1 - steps["beta1"])) & (steps["unseen"] < cap_unseen / 2)
    return float(log_update(steps).diff()[chosen].median())


@claim(
    "S14",
    "R",
    "batch-size rules for β₂ leave the region",
    statistic="runs by the rule β₂ = 0.98^(B/128) with β₁ = 0.95, ε = 1e-15 and float32 state, where B is the batch size that "
    "the rule is given and enters through β₂ only: every run trains with the scale's own batch; levels: B. Where γ² < β: "
    "largest update of all seeds over the exact bound for the run's length. Elsewhere: median growth per step of "
    "ln(u/prefactor) over ln(γ/√β), over steps at which the same row (of the embedding or the output layer) holds the largest "
    "update as one step before and has been unseen for more than 1/(1−β₁) steps and less than half of those to the "
    "predicted ε-cap; interval over seeds",
    rule="B ≤ 512: at most 1; B ≥ 768: within 10 % of 1",
    target={"update over bound": at_most(1.0), "growth over ln(γ/√β)": within(0.1)},
    columns=("peak", "bound_exact", "update_max", "unseen", "cap_unseen"),
    figure="fig11",
)
def _s14(e: Evidence) -> Judgement:
    rule = _recipe(e)
    if rule.empty:
        return Judgement(all_undecided("no run by the rule"))
    levels: list[Level] = []
    numbers: dict[str, float] = {}
    raw = dict(list(e.runs[e.runs["run"].isin(rule["run"])].groupby("run")))
    for size, runs in rule.groupby("batch_size"):
        name, good = f"B = {size}", finite(runs, "peak")
        lost = int((~good).sum())
        if (runs["C_exact"] > 0).all():
            part, why = "update over bound", "" if good.any() else "no finite run"
            ratio = (runs["peak"] / runs["bound_exact"])[good]
            levels.append(
                undecided(why, name, part, lost=lost) if why else exact(max_or_inf(ratio), name, part, lost=lost)
            )
        else:
            growth = [held_growth(raw[run], cap) for run, cap in zip(runs["run"], runs["cap_unseen"], strict=True)]
            ratio = pd.Series(growth, runs.index) / runs["rate_exact"]
            levels.append(mean_over_seeds(ratio[good], name, "growth over ln(γ/√β)", lost=lost))
        numbers[f"largest update, {name}"] = float(runs["peak"].max())
        numbers[f"mean test loss, {name}"] = float(runs["test_loss"].mean())
    return Judgement(levels, numbers)


@claim(
    "S15",
    "R",
    "a floor under β₂ at the boundary repairs such a rule",
    statistic="runs of S14 with β₂ = max(rule, β₁/(2−β₁)); levels: B × ε. Largest update of all seeds over the paper's bound for "
    "C → 0⁺ at the run's length; final test loss minus that of the rule's run with the same seed and ε, interval over seeds",
    rule="ratio at most 1 and 95 % interval of the difference below 0",
    target={"update over bound": at_most(1.0), "test loss difference": below(0.0)},
    columns=("peak", "bound_paper", "test_loss"),
    figure="fig11",
)
def _s15(e: Evidence) -> Judgement:
    levels: list[Level] = []
    floor = e.table[e.table["variant"] == "floor"]
    rule = e.table[(e.table["variant"] == "rule") & (e.table["C"] < 0)]
    numbers: dict[str, float] = {}
    for _, rows in rule.groupby(["batch_size", "eps"]):
        size, eps = int(rows["batch_size"].iloc[0]), float(rows["eps"].iloc[0])
        repaired = floor[floor["eps"] == eps]
        if not _is_repaired(rule, size):
            continue
        name = f"B = {size}, ε = {eps:g}"
        good = finite(repaired, "peak", "test_loss")
        lost = int((~good).sum())
        if good.any():
            ratio = (repaired["peak"] / repaired["bound_paper"])[good]
            levels.append(exact(max_or_inf(ratio), name, "update over bound", lost=lost))
        else:
            levels.append(undecided("no finite run", name, "update over bound", lost=lost))
        rule_good = finite(rows, "test_loss")
        loss = repaired[good].set_index("seed")["test_loss"] - rows[rule_good].set_index("seed")["test_loss"]
        levels.append(mean_over_seeds(loss.dropna(), name, "test loss difference", lost=lost + int((~rule_good).sum())))
        numbers[f"largest update by the rule, {name}"] = float(rows["peak"].max())
    return Judgement(
        levels or all_undecided("no run with a floor", parts=("update over bound", "test loss difference")), numbers
    )


def _is_repaired(rule: pd.DataFrame, size: int) -> bool:
    """Return whether the rule's runs at a batch size have every ε, as those have that are compared with the floor."""
    return rule.loc[rule["batch_size"] == size, "eps"].nunique() == rule["eps"].nunique()
