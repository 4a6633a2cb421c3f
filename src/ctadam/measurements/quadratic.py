"""What the runs of `ctadam.experiments.quadratic` come to, setting by setting."""

KEYS = ["sweep", "lr", "noise", "weight_decay"]
#: An update this large is far from what Adam is meant to do.
LARGE = 10.0


def measure(runs):
    """Measurements per setting.

    Args:
        runs: the raw table, see `ctadam.experiments.quadratic.run`.

    Returns:
        DataFrame, a row a setting in the order of the runs: `KEYS`, the number of ``runs``; how many ``diverged``;
        ``update_max``, the largest update of all; ``large_share``, the share of runs whose updates exceed `LARGE`;
        ``ratio_paper``, ``ratio_exact``, ``ratio_late``: the largest; ``loss``: the median at the end.
    """
    return runs.groupby(KEYS, sort=False, as_index=False).agg(
        runs=("run", "size"),
        diverged=("diverged_at", lambda s: int((s >= 0).sum())),
        update_max=("update_max", "max"),
        large_share=("update_max", lambda s: float((s > LARGE).mean())),
        ratio_paper=("ratio_paper", "max"),
        ratio_exact=("ratio_exact", "max"),
        ratio_late=("ratio_late", "max"),
        loss=("loss", "median"),
    )
