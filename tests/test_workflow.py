"""The workflow in a real clone: what is planned, what is run, and that inspecting results never trains."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctadam.artifact import config, figures
from ctadam.artifact.figures import FIGURES
from ctadam.experiments import EXPERIMENTS, configure, load

TRAINED = "raise RuntimeError('training was started')\n"
#: The job that is planned where everything is made already: it prints the ledger.
NOTHING = {"all": 1}
#: A figure of one experiment, and the one of most.
FIGURE, WIDEST = "fig6", max(FIGURES, key=lambda figure: len(FIGURES[figure]))


def git(directory, *words):
    subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True)


def commit(directory, message):
    git(directory, "add", "-A")
    git(directory, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


@pytest.fixture(scope="module")
def clone(copy_checkout, ship, tmp_path_factory):
    """A clone of the checkout as it is now, uncommitted changes included, with smoke-scale runs shipped.

    Its fresh tree holds the same results, which Snakemake takes for its own. No figure is drawn yet: where one belongs lies
    a file that says so, because planning needs no more.
    """
    source = copy_checkout(tmp_path_factory.mktemp("source"))
    target = tmp_path_factory.mktemp("clone") / "artifact"
    git(source, "clone", "-q", source, target)
    ship(target)
    for tree in ("fresh", "cached"):
        for path in (p for figure in FIGURES for p in figures.paths(figure, target / f"paper_figures/{tree}/smoke")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("not drawn yet")
    snakemake(target, "--touch", "--cores", "1", "--config", "scale=smoke")
    commit(target, "smoke runs")
    return target


def snakemake(directory, *words, status=0, before=()):
    """Run Snakemake there and give what it printed."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "snakemake", *words],
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
    tmp_path.mkdir(exist_ok=True)
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
    derived = {"predict_growth": 1, "measure_growth": 1, "draw_fig2": 1, "judge_only": 1}
    assert jobs == {"fig2": 1, "train_growth": 6} | derived


def sabotage(directory):
    """Make every training rule fail that is run."""
    for module in (directory / "src/ctadam/experiments").glob("*/runs.py"):
        module.write_text(TRAINED)


@pytest.mark.parametrize(
    "times, force",
    [
        ("natural", ["-F"]),
        ("raw newer", []),
        ("random", []),
        pytest.param("natural", [], marks=pytest.mark.slow),
        pytest.param("raw older", [], marks=pytest.mark.slow),
    ],
)
def test_cached_targets_never_train(clone, tmp_path, times, force):
    """File times as a clone may leave them, with and without -F: every cached target."""
    here = fresh_clone(clone, tmp_path)
    files = [here / name for name in subprocess.check_output(["git", "-C", here, "ls-files"], text=True).split()]
    rng = random.Random(times)
    for file in files:
        raw = "results/cached" in str(file)
        age = {"natural": 0, "raw older": 3600 * raw, "raw newer": 3600 * (not raw), "random": rng.uniform(0, 3600)}[
            times
        ]
        if age:
            os.utime(file, (file.stat().st_atime - age, file.stat().st_mtime - age))
    targets = ["cached", *(f"cached_{which}" for which in (*FIGURES, "S7"))]
    jobs = planned(snakemake(here, "-n", *force, *targets, "--config", "scale=smoke"))
    expected = {f"{stage}_{name}": 1 for stage in ("predict", "measure") for name in EXPERIMENTS}
    expected |= {f"draw_{figure}": 1 for figure in FIGURES} | {"judge": 1, "judge_only": len(FIGURES) + 1}
    assert jobs == expected | dict.fromkeys(targets, 1)


def without_network():
    """Words before a command that take the network from it, where that is allowed."""
    words = ["unshare", "--net", "--map-root-user"]
    works = shutil.which(words[0]) and not subprocess.run([*words, "true"], capture_output=True).returncode
    return words if works else []


@pytest.mark.slow
def test_what_is_made_from_shipped_runs_is_compared_and_no_tracked_file_changes(clone, tmp_path):
    """Training rules would fail if run. The shipped picture is no picture here, and the comparison says so."""
    here = fresh_clone(clone, tmp_path)
    sabotage(here)
    commit(here, "no training")
    output = snakemake(here, f"cached_{FIGURE}", "--config", "scale=smoke", status=1)
    compared = dict(
        reversed(line.split(None, 1)) for line in output.splitlines() if re.match("(same|agrees|differs) ", line)
    )
    assert {what.split(": ")[0]: outcome for what, outcome in compared.items()} == {
        **dict.fromkeys(FIGURES[FIGURE], "same"), FIGURE: "differs", "verdicts": "same"
    }  # fmt: skip
    assert "training was started" not in output and status(here) == ""
    shipped = figures.paths(FIGURE, here / "paper_figures/cached/smoke")
    assert all(path.read_text() == "not drawn yet" for path in shipped)
    for path in shipped:
        shutil.copy(here / "paper_figures/redrawn/smoke" / path.name, path)
    output = snakemake(here, f"cached_{FIGURE}", "--config", "scale=smoke")
    assert re.search(f"^same +{FIGURE}$", output, re.MULTILINE) and "draw_" not in output


def status(directory):
    """What git says has changed there, ignored files left out."""
    return subprocess.check_output(["git", "-C", directory, "status", "--short"], text=True)


@pytest.fixture(scope="module")
def drawn_clone(clone, tmp_path_factory):
    """A clone whose shipped figures are drawn."""
    here = fresh_clone(clone, tmp_path_factory.mktemp("drawn"))
    subprocess.run(
        [sys.executable, "-m", "ctadam", "promote", "smoke", "--derived"], cwd=here, check=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(here / "src")},
    )  # fmt: skip
    commit(here, "figures")
    return here


@pytest.mark.slow  # a minute; .ci/run calls it by itself
def test_everything_cached_is_really_made_again_and_reported(drawn_clone, tmp_path):
    """Training rules would fail if run. Everything comes out as shipped, and the report asks the network for nothing."""
    here = fresh_clone(drawn_clone, tmp_path)
    sabotage(here)
    commit(here, "no training")
    words = ["cached", "report", "--report-after-run", "--report", "report.html", "--config", "scale=smoke"]
    output = snakemake(here, *words, before=without_network())
    assert "training was started" not in output and "train_" not in output and status(here) == ""
    compared = re.findall("^(same|agrees|differs) ", output, re.MULTILINE)
    assert compared == ["same"] * (2 * len(EXPERIMENTS) + len(FIGURES) + 1)
    drawn = [p for figure in FIGURES for p in figures.paths(figure, here / "paper_figures/redrawn/smoke")]
    assert all(path.stat().st_size > 10_000 for path in drawn)
    page = (here / "report.html").read_text(encoding="utf-8")
    for path in (*drawn, here / "results/redrawn/smoke/claims.html", here / "results/redrawn/smoke/provenance.html"):
        assert path.suffix == ".pdf" or f"{path.parent.relative_to(here)}/{path.name}" in page
    for caption in (here / "workflow/report").glob("fig*.rst"):
        assert caption.stem not in FIGURES or re.match(r"\*\*(\w+)", caption.read_text())[1] in page
    assert not re.search(r"""<(script|link|img|iframe)[^>]*(src|href)=["']https?:""", page)


@pytest.mark.parametrize("figure", [FIGURE, WIDEST])
def test_a_cached_figure_plans_only_its_own(clone, figure):
    jobs = planned(snakemake(clone, "-n", "-F", f"cached_{figure}", "--config", "scale=smoke"))
    needs = FIGURES[figure]
    expected = {f"{stage}_{name}": 1 for stage in ("predict", "measure") for name in needs}
    assert jobs == expected | {f"draw_{figure}": 1, "judge_only": 1, f"cached_{figure}": 1}


def test_the_page_trains_nothing(clone):
    """Its clone has judged runs of its own: they are shown, not made again."""
    assert (clone / "results/fresh/smoke/claims.csv").exists()
    assert planned(snakemake(clone, "-n", "-F", "page", "--config", "scale=smoke")) == {"page": 1}


def test_a_claim_plans_only_what_it_needs(clone, tmp_path):
    jobs = planned(snakemake(clone, "-n", "-F", "cached_S7", "--config", "scale=smoke"))
    assert jobs == {"predict_tightness": 1, "measure_tightness": 1, "judge_only": 1, "cached_S7": 1}
    jobs = planned(snakemake(fresh_clone(clone, tmp_path), "-n", "S7"))
    assert jobs == {"train_tightness": 1, "predict_tightness": 1, "measure_tightness": 1, "judge_only": 1, "S7": 1}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["fig7", "S7"])
def test_a_figure_and_a_claim_end_with_their_verdicts(clone, which):
    """Beside the shipped ones, and again where nothing has to be made. The fresh tree holds results already."""
    output = snakemake(clone, "--cores", "1", which, "--config", "scale=smoke")
    ending = output[output.rindex("Select jobs to execute...") :]
    assert re.search(r"^S7 .*\(shipped: reproduced\)$", ending, re.MULTILINE) and "train_" not in output
    assert "judge_only" not in snakemake(clone, "--cores", "1", which, "--config", "scale=smoke")
    git(clone, "clean", "-qfdX", "results/logs")


@pytest.mark.slow
def test_the_users_configuration_does_not_reach_the_shipped_runs(clone):
    """What is done with them is the same, whatever the user's parameters are."""
    words = ["--workflow-profile", "none", "-n", "-F", "--printshellcmds", "cached"]
    plain = snakemake(clone, *words, "--config", "scale=smoke")
    changed = snakemake(clone, *words, "--config", "scale=smoke", "growth={lr: 0.0123, shards: 5}")
    commands = [sorted(re.findall(r"python -m ctadam .*", output)) for output in (plain, changed)]
    assert commands[0] == commands[1] and len(commands[0]) > len(EXPERIMENTS)
    # And what they were made with can be asked for again.
    output = snakemake(clone, "-n", "--configfile", "results/cached/smoke/config.yaml")
    assert planned(output) == NOTHING


def test_forcing_everything_retrains_everything(clone):
    jobs = planned(snakemake(clone, "-n", "--forceall", "--config", "scale=smoke"))
    for experiment in EXPERIMENTS:
        assert jobs[f"train_{experiment}"] == config.read("smoke")[experiment]["shards"]
        assert jobs[f"predict_{experiment}"] == jobs[f"measure_{experiment}"] == 1
    assert jobs["judge"] == 1 and all(jobs[f"draw_{figure}"] == 1 for figure in FIGURES)


def test_verify_plans_nothing_but_itself(clone):
    assert planned(snakemake(clone, "-n", "verify", "--config", "scale=smoke")) == {"verify": 1}


def test_a_missing_shipped_run_is_loud(clone, tmp_path):
    here = fresh_clone(clone, tmp_path)
    (here / "results/cached/smoke/growth/shard-2-of-2.parquet").unlink()
    for target in ("cached", "cached_fig2"):
        output = snakemake(here, "--cores", "1", target, "--config", "scale=smoke", status=1)
        assert "MissingInputException" in output and "results/cached/smoke/growth/shard-2-of-2.parquet" in output


def test_of_a_scale_what_is_shipped_is_drawn_and_judged(clone, tmp_path):
    """Some experiments may be shipped before the others: nothing of the rest is planned, and asking for it is an error."""
    copy = shutil.copytree(clone, tmp_path / "artifact", symlinks=True)
    manifest = copy / "results/cached/smoke/SHA256SUMS"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if re.search(r"  (quadratic|tightness)/|config.yaml", line)]
    manifest.write_text("\n".join(kept) + "\n", encoding="utf-8")
    jobs = planned(snakemake(copy, "-n", "-F", "cached", "--config", "scale=smoke"))
    derived = {f"{stage}_{name}" for stage in ("predict", "measure") for name in ("quadratic", "tightness")}
    assert set(jobs) == {"cached", "judge", "draw_fig6", *derived}
    output = snakemake(copy, "-n", "cached_fig7", "--config", "scale=smoke", status=1)  # shows growth, too
    assert "no runs of growth are shipped" in output


def test_a_scale_without_shipped_runs_says_which_have_some(clone, tmp_path):
    here = fresh_clone(clone, tmp_path)
    shutil.rmtree(here / "results/cached/paper")
    output = snakemake(here, "-n", "cached", "--config", "scale=paper", status=1)
    assert "no shipped results in results/cached/paper (scales with shipped results:" in output


@pytest.mark.slow
def test_a_changed_parameter_plans_exactly_its_experiment(clone):
    """The clone's fresh smoke runs are complete: nothing to do, until something changes."""
    nothing = snakemake(clone, "-n", "--config", "scale=smoke")
    assert planned(nothing) == NOTHING
    jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "tightness={seed: 7}"))
    assert {name for name in jobs if name.startswith("train")} == {"train_tightness"}
    assert "draw_fig2" not in jobs and jobs["judge"] == 1
    jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "growth={lr: 0.002}"))
    assert {name for name in jobs if name.startswith("train")} == {"train_growth"} and jobs["train_growth"] == 2
    assert "measure_tightness" not in jobs


def test_a_touch_retrains_nothing(clone):
    (clone / "src/ctadam/experiments/tightness/runs.py").touch()
    assert planned(snakemake(clone, "-n", "--config", "scale=smoke")) == NOTHING


TRAINED_BY_TRAINER = set(EXPERIMENTS) - {"quadratic", "tightness", "trajectory"}


@pytest.mark.parametrize(
    "file, expected",
    [
        pytest.param("experiments/tightness/runs.py", {"train_tightness"}, marks=pytest.mark.slow),
        ("experiments/k_sweep/runs.py", {"train_k_sweep", "train_baselines"}),
        (
            "training/torch_optimizers.py",
            {f"train_{name}" for name in EXPERIMENTS} - {"train_quadratic", "train_tightness", "train_trajectory"}
            | {"draw_fig9"},
        ),
        ("optim/fused.py", set()),
        ("analysis/slopes.py", {"measure_growth", "measure_practice", "draw_fig2", "draw_fig10", "draw_fig11"}),
        pytest.param("theory/flow.py", {"train_trajectory", "predict_trajectory"}, marks=pytest.mark.slow),
    ],
)
def test_an_edit_plans_what_imports_the_module(clone, file, expected):
    """Jobs that read its closure; those after them are planned because of them."""
    module = clone / "src/ctadam" / file
    text = module.read_text(encoding="utf-8")
    module.write_text(text + "\n# edited\n", encoding="utf-8")
    try:
        output = snakemake(clone, "-n", "--config", "scale=smoke")
    finally:
        module.write_text(text, encoding="utf-8")
    jobs = planned(output)
    assert {name for name in jobs if name.startswith("train")} == {
        name for name in expected if name.startswith("train")
    }
    assert expected <= set(jobs)


@pytest.mark.slow
def test_a_run_that_is_missing_is_made_again(clone):
    """As after a job that failed: its output is gone, the tables and figures made from an earlier one are there."""
    shard = clone / "results/fresh/smoke/tightness/shard-1-of-1.parquet"
    kept = shard.read_bytes(), shard.stat()
    shard.unlink()
    try:
        for target in ([], ["fig7"]):
            jobs = planned(snakemake(clone, "-n", "--config", "scale=smoke", "--", *target))
            assert jobs["train_tightness"] == 1 and "train_growth" not in jobs, target
    finally:
        shard.write_bytes(kept[0])
        os.utime(shard, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))


@pytest.mark.slow  # .ci/run calls it by itself
def test_a_run_that_is_there_is_really_made_again_with_a_changed_parameter(clone, tmp_path):
    """Through the rules: the user's change reaches the command, quoted, and the provenance of the run has it; forced, it is
    made again to the same bytes."""
    here = fresh_clone(clone, tmp_path)
    words = ["--cores", "1", "results/fresh/smoke/tightness/measurements.csv"]
    changes = ["--config", "scale=smoke", "tightness={draws: 123}"]
    snakemake(here, *words, *changes)
    path = here / "results/fresh/smoke/tightness/shard-1-of-1.json"
    record, made = json.loads(path.read_text()), path.stat().st_mtime_ns
    assert record["parameters"]["draws"] == 123 and record["rows"] == len(
        load("tightness").grid(configure("tightness", record["parameters"]))
    )
    assert "Nothing to be done" in snakemake(here, *words, *changes)
    snakemake(here, "--forceall", *words, *changes)
    assert path.stat().st_mtime_ns != made and json.loads(path.read_text())["sha256"] == record["sha256"]


@pytest.mark.parametrize(
    "change, message",
    [
        ("growth={lr: -1}", "growth.lr: -1 is not allowed (allowed: number in (0, inf))"),
        ("growth={lrr: 1}", "growth.lrr: 1 is not allowed (unknown key; known: shards"),
        ("growth={through: {beta1: 1}}", "growth.through.beta1: 1 is not allowed (allowed: number in [0, 1))"),
        ("scale=tiny", "scale: 'tiny' is not allowed (allowed: smoke, laptop, desk, paper)"),
    ],
)
def test_a_bad_configuration_is_one_line(root, change, message):
    output = snakemake(root, "-n", "--config", change, status=1)
    assert [line for line in output.splitlines() if message in line]
    assert len(output.splitlines()) < 8


def documented(root):
    """The commands of README's tables and of the Snakefile's first lines, of those that start Snakemake or ctadam."""
    rows = re.findall(r"^\|.*$", (root / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    lines = re.findall(r"^# +(snakemake.*?)(?:  |$)", (root / "Snakefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [*(command for row in rows for command in re.findall(r"`((?:snakemake|ctadam) ?[^`]*)`", row)), *lines]
    return list(dict.fromkeys(commands))


@pytest.mark.slow  # two minutes; .ci/run calls it by itself
def test_no_documented_command_changes_a_tracked_file(root, drawn_clone, tmp_path):
    """Each is run at scale smoke in one clone; those that fetch data or write shipped results by design are left out."""
    here, ran = fresh_clone(drawn_clone, tmp_path), []
    for command in documented(root):
        program, *words = shlex.split(command)
        if any(word in command for word in ("promote", "scale=paper", "scale=desk")):
            continue
        if re.fullmatch(r"snakemake fig\d+", command) and command != "snakemake fig2":
            continue  # the same rules
        if program == "snakemake":
            at = words.index("--config") + 1 if "--config" in words else len(words)
            words[at:at] = ["scale=smoke"] if "--config" in words else ["--config", "scale=smoke"]
            words = [word.replace("lr: 0.002", "lr: 0.002, steps: 50") for word in words]
        else:
            words = [word.replace("laptop", "smoke").replace("DIR", str(tmp_path / "out")) for word in words]
        environment = {**os.environ, "PYTHONPATH": str(here / "src"), "CTADAM_DATA": ""}
        done = subprocess.run(
            [sys.executable, "-m", program, *words], cwd=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
        assert status(here) == "", command
        ran.append(command)
    assert {"snakemake", "snakemake cached", "snakemake fig2", "snakemake claims", "ctadam results"} <= set(ran)
    # And once more: nothing has to be made again, and nothing needs to be forced.
    output = snakemake(here, "cached", "cached_fig2", "--config", "scale=smoke")
    assert "draw_" not in output and "same        fig2" in output and status(here) == ""


@pytest.mark.slow
def test_another_working_directory_holds_all_that_is_written(clone, tmp_path):
    """Shipped runs and code are the checkout's, whose path may contain a space."""
    here = fresh_clone(clone, tmp_path / "with space")
    before = sorted(here.rglob("*"))
    output = snakemake(
        tmp_path, "-s", here / "Snakefile", "--directory", tmp_path / "out", "--config", "scale=smoke", "--",
        "results/redrawn/smoke/claims_fig6.csv", "results/fresh/smoke/tightness/shard-1-of-1.parquet",
    )  # fmt: skip
    made = [path for path in sorted(here.rglob("*")) if "__pycache__" not in str(path)]
    assert made == before, output
    assert (tmp_path / "out/results/redrawn/smoke/claims_fig6.csv").exists()
    assert (tmp_path / "out/results/fresh/smoke/tightness/shard-1-of-1.parquet").exists()


def test_a_colon_in_the_path_is_one_line(clone, tmp_path):
    """PYTHONPATH cannot hold it: another installed ctadam would run."""
    here = fresh_clone(clone, tmp_path / "a:b")
    output = snakemake(here, "-n", status=1)
    assert "contains ':', which separates directories in PYTHONPATH: move or rename the checkout" in output
    done = subprocess.run(["make", "environment"], cwd=here, capture_output=True, text=True)
    assert done.returncode == 2 and "contains a colon" in done.stderr and not (here / ".venv").exists()


@pytest.mark.slow
def test_results_can_be_promoted_and_are_as_written(clone):
    """What was shipped is what was run, checked with the standard tool."""
    directory = Path(clone, "results/cached/smoke")
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=directory, check=True)
    output = snakemake(clone, "--cores", "1", "promote", "--config", "scale=smoke", status=1)
    assert "already holds shipped runs" in output
