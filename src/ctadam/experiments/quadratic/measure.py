"""What the runs of `ctadam.experiments.quadratic.runs` come to, setting by setting."""

import numpy as np

KEYS = ["sweep", "lr", "noise", "weight_decay"]
#: An update this large is far from what Adam is meant to do.
LARGE = 10.0


def measure(runs):
    """Measurements per setting.

    Args:
        runs: the raw table, see `ctadam.experiments.quadratic.runs.run`.

    Returns:
        DataFrame, a row a setting in the order of the runs: `KEYS`, the number of ``runs``; how many ``diverged``;
        ``update_max``, the largest update of all; ``large_share``, the share of runs whose updates exceed `LARGE`;
        ``ratio_paper``, ``ratio_exact``, ``ratio_late``: the largest; ``loss``: the median at the end. If a run diverged, all
        but the counts are empty: what it recorded before is not its largest update.
    """
    measured = ["update_max", "ratio_paper", "ratio_exact", "ratio_late", "loss"]
    good = (runs["diverged_at"] < 0) & np.isfinite(runs[measured]).all(axis=1)
    runs = runs.assign(**runs[measured].where(good))

    def of_all(statistic):
        return lambda values: float(statistic(values)) if values.notna().all() else np.nan

    return runs.groupby(KEYS, sort=False, as_index=False).agg(
        runs=("run", "size"),
        diverged=("diverged_at", lambda s: int((s >= 0).sum())),
        update_max=("update_max", of_all(np.max)),
        large_share=("update_max", of_all(lambda s: (s > LARGE).mean())),
        ratio_paper=("ratio_paper", of_all(np.max)),
        ratio_exact=("ratio_exact", of_all(np.max)),
        ratio_late=("ratio_late", of_all(np.max)),
        loss=("loss", of_all(np.median)),
    )
