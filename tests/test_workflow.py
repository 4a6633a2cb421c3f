"""The workflow in a real clone: what is planned, what is run, and that inspecting results never trains."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctadam import config
from ctadam.experiments import EXPERIMENTS
from ctadam.figures import FIGURES

TRAINED = "raise RuntimeError('training was started')\n"


def git(directory, *words):
    subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """A clone of the checkout as it is now, uncommitted changes included, with smoke-scale runs shipped."""
    source = tmp_path_factory.mktemp("source")
    names = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (root / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    git(source, "init", "-q")
    git(source, "add", "-A")
    git(source, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all")
    target = tmp_path_factory.mktemp("clone") / "artifact"
    git(source, "clone", "-q", source, target)
    # Every stage at smoke scale, the way a reader does it, then shipped.
    snakemake(target, "--cores", "2", "--config", "scale=smoke")
    snakemake(target, "--cores", "1", "promote", "--config", "scale=smoke")
    snakemake(target, "--cores", "1", "cached", "--config", "scale=smoke")
    # Judged again, now that there is a shipped ledger to stand beside one's own.
    snakemake(target, "--cores", "1", "--config", "scale=smoke")
    git(target, "add", "-A")
    git(target, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "smoke runs")
    return target


def snakemake(directory, *words, status=0):
    """Run Snakemake there and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def planned(output):
    """The jobs of a dry run's table: ``{rule: count}`` without the total."""
    table = output.split("Job stats:")[-1] if "Job stats:" in output else ""
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}
    jobs.pop("total", None)
    return jobs


def fresh_clone(clone, tmp_path):
    git(clone, "clone", "-q", clone, tmp_path / "clone")
    return tmp_path / "clone"


def test_everything_is_planned_by_default(clone, tmp_path):
    jobs = planned(snakemake(fresh_clone(clone, tmp_path), "-n"))
    expected = {"all": 1, "judge": 1} | {f"draw_{figure}": 1 for figure in FIGURES}
    for experiment in EXPERIMENTS:
        expected |= {f"train_{experiment}": config.read("laptop")[experiment]["shards"]}
        expected |= {f"predict_{experiment}": 1, f"measure_{experiment}": 1}
    assert jobs == expected and jobs["train_growth"] == 6


def test_one_figure_plans_what_it_needs(clone, tmp_path):
    jobs = planned(snakemake(fresh_clone(clone, tmp_path), "-n", "fig2"))
    assert jobs == {"fig2": 1, "train_growth": 6, "predict_growth": 1, "measure_growth": 1, "draw_fig2": 1}


@pytest.mark.parametrize("times", ["natural", "raw older", "raw newer", "random"])
@pytest.mark.parametrize("force", [[], ["-F"]])
def test_cached_targets_never_train(clone, tmp_path, times, force):
    """Training rules that fail if run, file times as a clone may leave them, with and without -F."""
    here = fresh_clone(clone, tmp_path)
    for module in (here / "src/ctadam/experiments").glob("*.py"):
        module.write_text(TRAINED if module.name != "__init__.py" else module.read_text())
    files = [here / name for name in subprocess.check_output(["git", "-C", here, "ls-files"], text=True).split()]
    rng = random.Random(times)
    for file in files:
        raw = "results/cached" in str(file)
        age = {"natural": 0, "raw older": 3600 * raw, "raw newer": 3600 * (not raw), "random": rng.uniform(0, 3600)}[
            times
        ]
        if age:
            os.utime(file, (file.stat().st_atime - age, file.stat().st_mtime - age))
    jobs = planned(snakemake(here, "-n", "--cores", "1", *force, "cached", "cached_fig2", "--config", "scale=smoke"))
    assert not any(name.startswith("train") for name in jobs)
    if force:
        assert jobs["draw_fig2"] == jobs["judge"] == jobs["measure_growth"] == 1
        if times == "random":
            snakemake(here, "--cores", "1", *force, "cached", "--config", "scale=smoke")
            # Redrawing unchanged data changes no byte of what is shipped.
            changed = subprocess.check_output(
                ["git", "-C", here, "status", "--short", "--", "results", "paper_figures"], text=True
            )
            assert not changed


def test_a_missing_shipped_run_is_loud(clone, tmp_path):
    here = fresh_clone(clone, tmp_path)
    (here / "results/cached/smoke/growth/shard-2-of-2.parquet").unlink()
    for target in ("cached", "cached_fig2"):
        output = snakemake(here, "--cores", "1", target, "--config", "scale=smoke", status=1)
        assert "MissingInputException" in output and "results/cached/smoke/growth/shard-2-of-2.parquet" in output


def test_a_scale_without_shipped_runs_says_which_have_some(clone):
    output = snakemake(clone, "-n", "cached", "--config", "scale=paper", status=1)
    assert "no shipped results in results/cached/paper (scales with shipped results:" in output


def test_a_changed_parameter_plans_exactly_its_experiment(clone):
    """The clone's fresh smoke runs are complete: nothing to do, until something changes."""
    nothing = snakemake(clone, "-n", "--config", "scale=smoke")
    assert "Nothing to be done" in nothing
    jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "tightness={seed: 1}"))
    assert {name for name in jobs if name.startswith("train")} == {"train_tightness"}
    assert "draw_fig2" not in jobs and jobs["judge"] == 1
    jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "growth={lr: 0.002}"))
    assert {name for name in jobs if name.startswith("train")} == {"train_growth"} and jobs["train_growth"] == 2
    assert "measure_tightness" not in jobs


def test_edited_code_retrains_the_fresh_tree_and_a_touch_does_not(clone):
    module = clone / "src/ctadam/experiments/tightness.py"
    text = module.read_text()
    module.touch()
    assert "Nothing to be done" in snakemake(clone, "-n", "--config", "scale=smoke")
    module.write_text(text + "\n# edited\n")
    try:
        jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke"))
    finally:
        module.write_text(text)
    assert {name for name in jobs if name.startswith("train")} == {"train_tightness"}


def test_a_run_that_is_missing_is_made_again(clone):
    """As after a job that failed: its output is gone, the tables and figures made from an earlier one are there."""
    shard = clone / "results/fresh/smoke/tightness/shard-1-of-1.parquet"
    kept = shard.read_bytes(), shard.stat()
    shard.unlink()
    try:
        for target in ([], ["claims"], ["figures"], ["fig7"]):
            jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "--", *target))
            assert jobs["train_tightness"] == 1 and "train_growth" not in jobs, target
    finally:
        shard.write_bytes(kept[0])
        os.utime(shard, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))


def test_a_changed_parameter_reaches_the_run(clone):
    """The rule hands the user's changes to the command, quoted: the provenance of the run has them."""
    import json

    snakemake(
        clone,
        "--cores",
        "1",
        "results/fresh/smoke/tightness/measurements.csv",
        "--config",
        "scale=smoke",
        "tightness={draws: 123}",
    )
    record = json.loads((clone / "results/fresh/smoke/tightness/shard-1-of-1.json").read_text())
    assert record["parameters"]["draws"] == 123 and record["rows"] == 286
    snakemake(clone, "--cores", "1", "--config", "scale=smoke")  # as it was, for the tests beside this one


@pytest.mark.parametrize(
    "change, message",
    [
        ("growth={lr: -1}", "growth.lr: -1 is not allowed (allowed: number in (0, inf))"),
        ("growth={lrr: 1}", "growth.lrr: 1 is not allowed (unknown key; known: shards"),
        ("growth={through: {beta1: 1}}", "growth.through.beta1: 1 is not allowed (allowed: number in [0, 1))"),
        ("scale=tiny", "scale: 'tiny' is not allowed (allowed: smoke, laptop, paper)"),
    ],
)
def test_a_bad_configuration_is_one_line(root, change, message):
    output = snakemake(root, "-n", "--config", change, status=1)
    assert [line for line in output.splitlines() if message in line]
    assert len(output.splitlines()) < 8


def test_results_can_be_promoted_and_are_as_written(clone):
    """What was shipped is what was run, checked with the standard tool."""
    directory = Path(clone, "results/cached/smoke")
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=directory, check=True)
    output = snakemake(clone, "--cores", "1", "promote", "--config", "scale=smoke", status=1)
    assert "already holds shipped runs" in output
