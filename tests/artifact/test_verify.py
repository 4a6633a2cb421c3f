"""`ctadam verify`: shipped runs made again agree, and code that no longer makes them is found."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ctadam import cli, experiments
from ctadam.artifact import ledger as claims
from ctadam.artifact import verify
from ctadam.artifact.promote import promote, renew
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.store import DERIVED, without_lists


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_runs_made_again_are_the_shipped_ones(shipped, experiment):
    """On the machine that made them, to the last bit, or to rounding where fewer runs are trained together."""
    check = verify.rerun(shipped, experiment, device="cpu", seed=1)
    assert check.outcome in (verify.IDENTICAL, verify.AGREES), check
    for check in verify.rederive(shipped, experiment):
        assert check.outcome == verify.IDENTICAL, check


def test_a_scale_of_one_experiment_has_a_ledger_of_its_own(smoke, tmp_path):
    """It is derived, judged and verified by what lies there alone."""
    results = tmp_path / "results"
    shutil.copytree(smoke / "k_sweep", results / "fresh/smoke/k_sweep")
    promote("smoke", results=results, experiments=["k_sweep"])
    renew("smoke", results=results, figures=tmp_path / "paper_figures")
    shipped = results / "cached/smoke"
    assert list(claims.read_ledger(claims.ledger_path(shipped))["id"]) == [
        claim.id for claim in claims.CLAIMS if claim.experiment == "k_sweep"
    ]
    checks = verify.verify(shipped, device="cpu")
    assert [check.what for check in checks][-1] == "verdicts"
    assert all(check.outcome in (verify.IDENTICAL, verify.AGREES) for check in checks), checks
    (shipped / "k_sweep" / "measurements.csv").unlink()
    assert any("measurements.csv" in problem for problem in verify.damage(shipped))


def test_another_sample_is_another_sample(shipped, monkeypatch):
    seen = []
    module = experiments.load("tightness")
    monkeypatch.setattr(verify, "WHOLE_RUNS", 5)
    fake = SimpleNamespace(
        grid=module.grid, run=lambda runs, *a, **k: seen.append(set(runs["run"])) or module.run(runs, *a, **k)
    )
    monkeypatch.setattr(verify, "load", lambda name: fake)
    for seed in (0, 1, 0):
        verify.rerun(shipped, "tightness", device="cpu", seed=seed)
    assert seen[0] == seen[2] != seen[1] and len(seen[0]) == 5


@pytest.mark.parametrize(
    "change",
    [
        "a bias correction by n instead of n + 1",
        "a learning rate one per cent off",
        "ε where there was none",
        "another seed",
    ],
)
def test_code_that_makes_something_else_is_found(shipped, monkeypatch, change):
    from ctadam.optim import arithmetic

    real = arithmetic.kadam_update_
    if change == "another seed":
        from ctadam.training import ensemble

        generators = ensemble.generators
        monkeypatch.setattr(ensemble, "generators", lambda seed: generators(seed + 1))
        name = "growth"
    elif change == "a learning rate one per cent off":
        from ctadam.training import stack

        init = stack.StackedKAdam.__init__
        monkeypatch.setattr(
            stack.StackedKAdam,
            "__init__",
            lambda self, *a, lr, **k: init(self, *a, lr=[1.01 * rate for rate in lr], **k),
        )
        name = "growth"
    else:
        name = "tightness" if change.startswith("ε") else "trajectory"

        def wrong(grad, averages, squares, step, *, stages, eps):
            if name == "tightness":
                return real(grad, averages, squares, step, stages=stages, eps=0.1)
            return real(grad, averages, squares, step + 1, stages=stages, eps=eps)

        monkeypatch.setattr(experiments.load(name), "kadam_update_", wrong)
    check = verify.rerun(shipped, name, device="cpu")
    assert check.outcome == verify.DIFFERS, check


@pytest.mark.parametrize(
    "changes, note",
    [
        ({"steps": 5}, "tightness.steps: 5 is not allowed (allowed: integer in [20, inf))"),
        ({"drawz": 5}, "tightness.drawz: 5 is not allowed (unknown key; known: shards, "),
    ],
)
def test_recorded_parameters_that_are_no_longer_valid_are_a_difference(shipped, monkeypatch, changes, note):
    real = verify.checked_shards
    monkeypatch.setattr(
        verify,
        "checked_shards",
        lambda *a: {p: r | {"parameters": r["parameters"] | changes} for p, r in real(*a).items()},
    )
    check = verify.rerun(shipped, "tightness", device="cpu")
    assert check.outcome == verify.DIFFERS and note in check.note


def test_other_data_cannot_be_compared(shipped, monkeypatch):
    """As in another version of Python, whose documentation is the text."""
    from ctadam.data import text

    real = text.read_text
    monkeypatch.setattr(text, "read_text", lambda source: real(source) + " more")
    check = verify.rerun(shipped, "growth", device="cpu")
    assert check.outcome == verify.CANNOT and "other data (pydoc)" in check.note


def test_runs_of_another_kind_of_device_cannot_be_compared(shipped, monkeypatch):
    real = verify.checked_shards
    monkeypatch.setattr(
        verify, "checked_shards", lambda *a: {p: r | {"device": "NVIDIA H100"} for p, r in real(*a).items()}
    )
    check = verify.rerun(shipped, "tightness", device="cpu")
    assert check.outcome == verify.CANNOT and "NVIDIA H100" in check.note


def table(**columns):
    return pd.DataFrame({"run": [0, 0, 1, 1], "step": [0, 1, 0, 1], **columns})


@pytest.mark.parametrize(
    "again, share, outcome",
    [
        ({"x": [1.0, 2.0, 3.0, np.nan], "who": ["a", "b", "c", "d"]}, 1.0, verify.IDENTICAL),
        ({"x": [1.0 + 1e-7, 2.0, 3.0, np.nan], "who": ["a", "b", "c", "d"]}, 1.0, verify.AGREES),
        ({"x": [1.0, 2.0, 3.0, np.nan], "who": ["a", "b", "c", "z"]}, 0.75, verify.AGREES),
        ({"x": [1.0, 2.0, 3.0, np.nan], "who": ["a", "b", "y", "z"]}, 0.75, verify.DIFFERS),
        ({"x": [1.01, 2.02, 3.0, np.nan], "who": ["a", "b", "c", "d"]}, 0.75, verify.DIFFERS),
        ({"x": [1.0, 2.0, np.inf, 1.0], "who": ["a", "b", "c", "d"]}, 0.75, verify.DIFFERS),
    ],
)
def test_comparison(again, share, outcome):
    stored = table(x=[1.0, 2.0, 3.0, np.nan], who=["a", "b", "c", "d"])
    found = verify.compare(stored, table(**again).iloc[::-1], keys=["run", "step"])
    assert verify._outcome(*found, share)[0] == outcome, found


def test_several_rows_a_step_are_held_in_their_order():
    """As of an experiment with a row for each weight matrix."""
    stored = table(x=[1.0, 2.0, 3.0, 4.0]).assign(step=[0, 0, 0, 0])
    assert verify.compare(stored, stored, keys=["run", "step"]) == (4, ("", 0.0), ("", 1.0))
    found = verify.compare(stored, stored.assign(x=[1.0, 2.0, 3.0, 5.0]), keys=["run", "step"])
    assert found == (4, ("x", 0.25), ("x", 0.75))


def test_lists_are_compared_as_written(tmp_path):
    """A column of several pairs: lists when made, arrays when read back."""
    made = table(gammas=[[0.1, 0.2], [0.3], None, [0.5]])
    made.to_parquet(tmp_path / "t.parquet")
    stored, again = without_lists(pd.read_parquet(tmp_path / "t.parquet")), without_lists(made)
    assert verify.compare(stored, again, keys=["run", "step"]) == (4, ("", 0.0), ("", 1.0))
    assert again["gammas"].nunique() == 3


def test_tables_that_cannot_be_laid_beside_each_other():
    stored = table(x=1.0)
    for again, message in (
        (table(y=1.0), r"column\(s\) x, y"),
        (table(x=1.0).assign(step=[2, 3, 2, 3]), "no row in common"),
    ):
        with pytest.raises(verify._Differs, match=message):
            verify.compare(stored, again, keys=["run", "step"])


@pytest.fixture
def checkout(shipped, root, tmp_path, monkeypatch):
    """A directory that looks like a checkout whose shipped results may be damaged."""
    (tmp_path / "workflow").symlink_to(root / "workflow")
    shutil.copytree(shipped, tmp_path / "results/cached/smoke")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_says_what_it_checked(checkout, capsys, monkeypatch):
    monkeypatch.setattr(verify, "RUNS", 2)
    assert cli.main(["verify", "smoke", "--device", "cpu", "--seed", "3"]) == 0
    said = capsys.readouterr().err
    for experiment in EXPERIMENTS:
        assert f"{experiment}: runs" in said and all(f"{experiment}: {name}" in said for name in DERIVED)
    assert "verdicts: " in said and "(sample: --seed 3)" in said


def test_the_command_fails_on_damage_without_running_anything(checkout, capsys, monkeypatch):
    monkeypatch.setattr(verify, "rerun", lambda *a, **k: pytest.fail("bad data were compared"))
    (checkout / "results/cached/smoke/growth/shard-1-of-2.parquet").unlink()
    assert cli.main(["verify", "smoke"]) == 1
    said = capsys.readouterr().err
    assert "growth/shard-1-of-2.parquet is missing: restore it with `git checkout" in said and "failed" in said
    assert cli.main(["verify", "paper"]) == 1
    assert "no shipped results in" in capsys.readouterr().err


def test_a_verdict_that_changed_is_found(shipped, monkeypatch):
    real = verify.claims.judge
    monkeypatch.setattr(verify.claims, "judge", lambda *a: real(*a).assign(verdict="contradicted"))
    check = verify.rejudge(shipped)
    assert check.outcome == verify.DIFFERS and ": reproduced, now contradicted" in check.note
