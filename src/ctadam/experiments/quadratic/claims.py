"""Claims S9 and S12: the guarantee holds whatever learning rate, noise and decay, and decay bounds the parameters."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ctadam.analysis.rules import finite
from ctadam.analysis.verdicts import Evidence, Judgement, at_most, claim, exact, undecided
from ctadam.experiments.quadratic.measure import KEYS, LARGE
from ctadam.storage.store import read_joined

#: Relative tolerance for updates at their bound.
TOLERANCE = 1e-9
_NAMES = {
    "lr": "η = {lr:g}",
    "noise": "σ = {noise:g}",
    "weight_decay": "λ = {weight_decay:g}",
    "distant": "λ = {weight_decay:g}, distant minimum",
}


def _settings(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield name and runs of each setting."""
    for _, group in runs.groupby(KEYS, sort=False):
        setting = group[KEYS].to_dict("records")[0]
        yield _NAMES[setting["sweep"]].format_map(setting), group


@claim(
    "S9",
    "R",
    "learning rate, noise and decay do not move the guarantee",
    statistic="number of runs on a convex quadratic, all over the square of pairs, with an update above its bound at any step by "
    "more than 1e-9 of it: the exact bound, and where C > 0 also the paper's; levels: learning rates, noise levels, decays",
    rule="none at every level",
    target=at_most(0),
    columns=("excess_exact", "excess_paper", "C"),
    form=".6g",
)
def _s9(e: Evidence) -> Judgement:
    runs = read_joined(e.results, e.experiment, e.runs)
    excess = runs[["excess_exact", "excess_paper"]]
    broken = (excess["excess_exact"] > TOLERANCE) | ((runs["C"] > 0) & (excess["excess_paper"] > TOLERANCE))
    # Records made before a run diverged can still violate the bound.
    runs = runs.assign(broken=broken, good=finite(runs, *excess, "update_max"))
    levels = [exact(group["broken"].sum(), name, lost=int((~group["good"]).sum())) for name, group in _settings(runs)]
    outside = runs[(runs["C"] < 0) & runs["good"]]
    shares = outside.groupby("sweep", sort=False)["update_max"].agg(lambda u: float((u > LARGE).mean()))
    numbers = {"runs": float(len(runs))} | {
        f"share of runs with C < 0 whose largest update is above {LARGE:g}, {str(sweep).replace('_', ' ')}": share
        for sweep, share in shares.items()
    }
    numbers["largest update over the paper's bound where C < 0"] = 1 + float(outside["excess_paper"].max())
    return Judgement(levels, numbers)


@claim(
    "S12",
    "D",
    "with decay λ inside the region, parameters are bounded",
    statistic="largest ‖θ_n‖_∞ over max(‖θ_0‖_∞, B/λ) at any step of the runs with decay on a convex quadratic, C > 0, where B "
    "is the limit of the exact bound; levels: decays, and a decay with a minimum far beyond B/λ",
    rule="at most 1 + 1e-9 at every level",
    target=at_most(1 + TOLERANCE),
    columns=("param_max", "param_start", "limit_exact", "C"),
    form=".6g",
)
def _s12(e: Evidence) -> Judgement:
    runs = read_joined(e.results, e.experiment, e.runs)
    runs = runs[(runs["weight_decay"] > 0) & (runs["C"] > 0)]
    limit = np.maximum(runs["param_start"], runs["limit_exact"] / runs["weight_decay"])
    runs = runs.assign(ratio=runs["param_max"] / limit, good=finite(runs, "param_max", "limit_exact"))
    levels = []
    for name, group in _settings(runs):
        good, lost = group.loc[group["good"], "ratio"], int((~group["good"]).sum())
        levels.append(exact(good.max(), name, lost=lost) if len(good) else undecided("no finite run", name, lost=lost))
    return Judgement(levels, {"runs": float(len(runs))})
