"""docs/changing.md: its example experiment is added to a copy of the checkout as the page says, and run."""

import json
import re
import shutil
import subprocess
import sys

import pytest

BLOCK = r"\n\n```\w+\n(.*?)```"


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs/changing.md").read_text(encoding="utf-8")


def apply(page, directory):
    """Follow the page's instructions; gives the files it touched."""
    touched = []
    for path, text in re.findall(r"New file `([^`]+)`[^\n]*" + BLOCK, page, re.DOTALL):
        assert not (directory / path).exists()
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")
        touched.append(path)
    for paths, text in re.findall(r"At the end of ([^\n]+):" + BLOCK, page, re.DOTALL):
        for path in re.findall(r"`([^`]+)`", paths):
            with open(directory / path, "a", encoding="utf-8") as file:
                file.write(text)
            touched.append(path)
    return touched


def copy_of(root, directory):
    """Copy what the workflow needs of the checkout."""
    for name in ("src", "workflow", "profiles"):
        shutil.copytree(root / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(root / name, directory)
    return directory


@pytest.fixture(scope="module")
def changed(root, page, tmp_path_factory):
    directory = copy_of(root, tmp_path_factory.mktemp("changed"))
    return directory, apply(page, directory)


@pytest.fixture(scope="module")
def with_optimizer(root, page, tmp_path_factory):
    """Copy of the checkout with the page's further optimizer, and the file that was edited."""
    directory = copy_of(root, tmp_path_factory.mktemp("optimizer"))
    ((table, path, entry),) = re.findall(r"Add to `(\w+)` in `([^`]+)`:" + BLOCK, page, re.DOTALL)
    text = (directory / path).read_text(encoding="utf-8")
    start = text.index(f"\n{table} = {{")
    end = text.index("\n}\n", start) + 1
    (directory / path).write_text(text[:end] + entry + text[end:], encoding="utf-8")
    return directory, path


def in_copy(directory, code):
    """Run code with the package of a copy, and return what it prints."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src'); {code}"]
    environment = {"PYTHONPATH": str(directory / "src"), "PATH": ""}
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.slow
def test_one_entry_makes_an_optimizer_a_contender(with_optimizer):
    directory, path = with_optimizer
    code = """
import json
from ctadam.artifact import config
from ctadam.experiments import configure
from ctadam.experiments.baselines import figure, predict, runs
table = runs.grid(configure("baselines", config.resolve("smoke")["baselines"]))
table, count = table[table["contender"] == "Adadelta"], table["contender"].value_counts()
predicted = predict.predict(table.rename(columns={"steps": "step"}))
print(json.dumps([int(count["Adadelta"] - count["AdamW"]), sorted(set(predicted["bytes"])), figure.looks()["Adadelta"]]))
"""
    missing, moved, look = json.loads(in_copy(directory, code))
    assert missing == 0 and moved == [28] and look.keys() == {"color", "marker"}
    command = [sys.executable, "-m", "ruff", "format", "--check", path]
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0


@pytest.mark.slow  # .ci/run calls it by itself
def test_figure_9_shows_the_further_optimizer(with_optimizer):
    directory, _ = with_optimizer
    words = ["--cores", "1", "fig9", "--config", "scale=smoke"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (directory / "paper_figures/fresh/smoke/fig9_baselines.png").stat().st_size > 10_000
    measured = (directory / "results/fresh/smoke/baselines/measurements.csv").read_text(encoding="utf-8")
    assert measured.count("Adadelta") > 1


def test_an_experiment_is_one_folder(changed):
    _, touched = changed
    folders = {path.rpartition("/")[0] for path in touched}
    assert folders == {"src/ctadam/experiments/silence", "workflow/config", "workflow/report"}
    assert [path for path in touched if path.startswith("workflow/config")] == ["workflow/config/laptop.yaml"]


@pytest.mark.slow  # .ci/run calls it by itself
def test_the_example_runs_and_its_claim_is_judged(changed):
    """Trained, drawn and judged; and after promotion, as the page ends, the README's table shows the verdict."""
    directory, _ = changed
    words = ["--cores", "1", "fig20", "--config", "scale=smoke"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (directory / "paper_figures/fresh/smoke/fig20_silence.png").stat().st_size > 10_000
    code = """
import json, sys
sys.path.insert(0, "src")
from ctadam.artifact import figures, ledger, verify
outcome = ledger.find("X1").judge(ledger.Evidence("results/fresh/smoke", "silence"))
check = verify.rerun("results/fresh/smoke", "silence", device="cpu")
from ctadam import cli
from ctadam.artifact import report
assert cli.main(["promote", "smoke", "silence"]) == 0
report.HEADLINE_SCALES = ("smoke",)
assert "| reproduced: [X1](docs/claims.md#x1) | `snakemake fig20` |" in report.figure_table(".", "smoke")
print(json.dumps([outcome.verdict, check.outcome, ledger.CLAIMS[-1].id, figures.caption_title(".", "fig20")]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["reproduced", "same", "X1", "A coordinate without gradients"]


def test_the_example_is_written_as_the_rest(changed):
    directory, touched = changed
    files = [path for path in touched if path.endswith(".py")]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *files], cwd=directory, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_every_scale_of_the_example_is_valid(changed):
    directory, _ = changed
    code = (
        "from ctadam.artifact import config; [config.resolve(scale) for scale in config.SCALES]; print(config.root())"
    )
    environment = {"PYTHONPATH": str(directory / "src"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str(directory)
