"""What the runs of `ctadam.experiments.k_sweep.runs` come to."""

from ctadam.storage.tables import sort_rows

KEYS = ["run", "norm", "k", "stages", "lr", "weight_decay", "seed"]


def measure(runs):
    """Measurements per run.

    Args:
        runs: the raw table, see `ctadam.experiments.k_sweep.runs.run`.

    Returns:
        DataFrame, a row a run: `KEYS`, ``steps``; ``accuracy``, ``test_loss``, ``train_loss`` (of one batch) after the last
        step, ``update_max`` (largest of the tested steps), ``diverged_at``, ``guess``. A run that diverged has learnt nothing:
        its accuracy is ``guess``, its losses are empty.
    """
    # The last row itself, whose numbers may be NaN; `last()` would go back to the last that are not.
    last = sort_rows(runs, ["run", "step"]).groupby("run").tail(1).reset_index(drop=True)
    largest = runs.groupby("run")["update_max"].max()
    diverged = last["diverged_at"] >= 0
    return last[KEYS].assign(
        steps=last["step"] + 1,
        accuracy=last["test_score"].where(~diverged, last["guess"]),
        test_loss=last["test_loss"].where(~diverged),
        train_loss=last["train_loss"].where(~diverged),
        update_max=last["run"].map(largest),
        diverged_at=last["diverged_at"],
        guess=last["guess"],
    )


def differences(table):
    """Accuracy of k = 2 minus that of k = 1, seed by seed: ``{(norm, strategy): values}``, from a table of `measure`."""
    found = {}
    for norm, group in table.groupby("norm"):
        adam = group.query("k == 1").set_index("seed")["accuracy"]
        for strategy, runs in group.query("k == 2").groupby("stages", sort=False):
            found[norm, strategy] = (runs.set_index("seed")["accuracy"] - adam).dropna().to_numpy()
    return found
