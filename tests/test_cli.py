"""The command line: what it says, what it writes, and that bad input costs one line."""

import io
import json
import os
import random
import re
import subprocess
import sys

import pandas as pd
import pytest

from ctadam import cli, stage_betas
from ctadam.experiments import EXPERIMENTS
from ctadam.optim import stages
from ctadam.storage.provenance import sha256


def stability(capsys, *words):
    assert cli.main(["stability", *words]) == 0
    return dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())


def test_stability_speaks_torchs_order(capsys):
    said = {key: value.strip() for key, value in stability(capsys, "--betas", "0.9", "0.95", "--steps", "100").items()}
    assert said["betas"] == "beta1 = γ = 0.9, beta2 = β = 0.95"
    assert said["C (paper)"] == "0.169591"
    assert said["verdict"].startswith("stable")
    assert said["nearest stable beta2"] == "0.95 (yours)"
    assert "bound on |u|, step 100" in said


@pytest.mark.parametrize(
    "betas, verdict",
    [(("0.995", "0.95"), "unstable"), (("0.5", "0.3"), "bounded by the exact law"), (("0", "0.999"), "stable")],
)
def test_stability_verdicts(capsys, betas, verdict):
    said = stability(capsys, "--betas", *betas)
    assert said["verdict"].strip().startswith(verdict)


@pytest.mark.parametrize(
    "betas",
    ["0.9 0.81", "0.8 0.64", "0.5 0.25", "0.7 0.49", "0.3 0.09", "0.99 0.9801", "0.999 0.998001", "0.01 0.0001"],
)
def test_pairs_typed_on_the_boundary_get_one_verdict(capsys, betas):
    said = stability(capsys, "--betas", *betas.split())
    assert said["verdict"].strip().startswith("on the boundary: updates can grow like the square root")
    assert said["exact coefficient"].strip() == "0" and said["growth rate per step"].strip().startswith("0 ")


@pytest.mark.parametrize("betas", ["0.4 0.25", "0.75 0.6", "0.72 0.5625", "0.976 0.953125", "0.9 0.8181818181818182"])
def test_pairs_typed_on_the_papers_boundary_get_one_verdict(capsys, betas):
    said = stability(capsys, "--betas", *betas.split())
    assert said["verdict"].strip().startswith("bounded by the exact law")
    assert said["C (paper)"].strip() == "0" and said["growth rate per step"].strip() == "0 (paper's law: 0)"


def extreme_pairs(count=150):
    """Pairs all over the square, and with one or both betas as close to 1 as float64 allows."""
    rng = random.Random(0)
    draws = (rng.random, lambda: 1 - 10 ** rng.uniform(-12, 0), lambda: 1 - rng.randrange(1, 40) * 2.0**-53)
    return [(rng.choice(draws)(), rng.choice(draws)()) for _ in range(count)]


def test_the_suggested_beta2_is_stable_when_typed_back(capsys):
    without = []
    for beta1, beta2 in [(0.99995, 0.999), (1 - 1e-12, 0.5), *extreme_pairs()]:
        suggestion = stability(capsys, "--betas", repr(beta1), repr(beta2))["nearest stable beta2"].split()[0]
        if suggestion == "none:":
            without.append(beta1)
            suggestion = repr(1 - 2.0**-53)
        said = stability(capsys, "--betas", repr(beta1), suggestion)
        assert said["verdict"].strip().startswith("stable") == (beta1 not in without), (beta1, beta2, suggestion)
        assert beta1 in without or said["nearest stable beta2"].strip() == f"{suggestion} (yours)"
    assert without and min(without) > 1 - 1e-15


def test_betas_are_shown_to_the_last_digit(capsys):
    said = stability(capsys, "--betas", "0.999999999999", "0.9999999")
    assert said["betas"].strip() == "beta1 = γ = 0.999999999999, beta2 = β = 0.9999999"


@pytest.mark.parametrize("betas", ["0.999 0.9", "0.95 0.9", "0.9999999 0.9"])
def test_a_likely_swap_gets_a_hint_with_the_command(capsys, betas):
    said = stability(capsys, "--betas", *betas.split(), "--steps", "7")
    beta1, beta2 = betas.split()
    assert "the order is torch's (beta1, beta2)" in said["hint"] and "the paper's (β, γ)" in said["hint"]
    assert said["hint"].endswith(f"ctadam stability --betas {beta2} {beta1} --steps 7")


@pytest.mark.parametrize("betas", ["0.9 0.999", "0.9 0.9", "0.995 0.999", "0.5 0.3", "0.9 0.81", "0.9 0.85", "0.3 0.4"])
def test_no_hint_in_the_usual_order_or_without_growth(capsys, betas):
    assert "hint" not in stability(capsys, "--betas", *betas.split())


@pytest.mark.parametrize("steps", [10**12, 10**18, 10**400])
def test_any_number_of_steps_has_a_bound(capsys, steps):
    said = stability(capsys, "--betas", "0.9", "0.99", "--steps", str(steps))
    assert said[f"bound on |u|, step {steps}"].strip() == said["bound on |u|, any step"].strip()


@pytest.mark.parametrize("beta", ["1", "1.0", "1.5", "-0.1", "nan", "inf", "0.99999999999999999"])
@pytest.mark.parametrize("place", [0, 1])
def test_betas_outside_the_square_are_one_line(capsys, beta, place):
    betas = ["0.5", "0.5"]
    betas[place] = beta
    assert cli.main(["stability", "--betas", *betas]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"--betas: Invalid beta{place + 1}: {float(beta)} is not in [0, 1)" in lines[0]


@pytest.mark.parametrize("strategy", ["inverse-exp", "uniform", "exp", "naive"])
@pytest.mark.parametrize("k", [2, 3])
def test_stability_of_k_adam_is_that_of_the_last_stage(capsys, strategy, k):
    betas = (0.995, 0.95)
    last = stage_betas(strategy, k, betas=betas)[-1]
    said = stability(capsys, *map(repr, betas), "--k", str(k), "--stages", strategy)
    alone = stability(capsys, *map(repr, last))
    assert said["betas"].strip() == "beta1 = γ = 0.995, beta2 = β = 0.95"
    for stage in range(1, k + 1):
        assert said[f"stage {stage} ({strategy})"].strip() == alone["betas"].strip()
    for name in ("C (paper)", "exact coefficient", "verdict", "bound on |u|, any step", "growth rate per step"):
        assert said[name].strip() == alone[name].strip()
    assert said[f"nearest stable beta2, stage {k}"].strip() == alone["nearest stable beta2"].strip()


def test_stages_can_make_an_unstable_pair_stable_and_the_hint_keeps_the_options(capsys):
    for name, verdict in (("naive", "unstable"), ("inverse-exp", "stable")):
        said = stability(capsys, "0.95", "0.9", "--k", "5", "--stages", name)
        assert said["verdict"].strip().startswith(f"{verdict}: ") and ("hint" in said) == (name == "naive")
    hint = stability(capsys, "0.999", "0.9", "--k", "2", "--stages", "exp", "--steps", "7")["hint"]
    assert hint.endswith("ctadam stability --betas 0.9 0.999 --k 2 --stages exp --steps 7")


def test_every_strategy_of_k_adam_can_be_named(capsys):
    assert set(cli.STRATEGIES) == set(stages._STRATEGIES)


RULE = ["--rule", "0.98**(B/128)", "--beta1", "0.95", "--batch", "64:8192"]
OTHER_RULE = ["--rule", "1 - 0.0125*B", "--beta1", "max(0.5, 1 - 0.025*B)", "--batch", "1:79"]


def test_a_rule_is_unstable_from_a_batch_size_on(capsys):
    said = stability(capsys, *RULE)
    assert said["unstable (paper)"].strip() == "B = 635 to 8192"
    assert said["unstable (exact)"].strip() == "B = 650 to 8192"
    assert [int(name[4:]) for name in said if name.startswith("B = ")] == [
        64, 128, 256, 512, 635, 650, 1024, 2048, 4096, 8192
    ]  # fmt: skip
    rates = {
        name: value.partition("per step ")[2].split()[0] for name, value in said.items() if name.startswith("B = ")
    }
    assert float(rates["B = 512"]) == 0
    assert float(rates["B = 1024"]) == pytest.approx(0.030, abs=5e-4)
    assert float(rates["B = 2048"]) == pytest.approx(0.110, abs=5e-4)


@pytest.mark.parametrize("law, boundary", [("paper", 0.95 / 1.05), ("exact", 0.95**2)])
def test_the_suggested_floor_repairs_the_rule(capsys, law, boundary):
    floor = stability(capsys, *RULE)[f"floor ({law})"]
    assert float(floor.partition(" = ")[2].partition(",")[0]) == pytest.approx(boundary, rel=1e-6)
    repaired = floor.partition("as in ")[2]
    said = stability(capsys, "--rule", repaired, *RULE[2:])
    assert said[f"unstable ({law})"].strip() == "nowhere" and "as in" not in said[f"floor ({law})"]


def test_both_betas_can_have_a_rule(capsys):
    said = stability(capsys, *OTHER_RULE)
    assert said["unstable (paper)"].strip() == "B = 54 to 79"
    assert said["unstable (exact)"].strip() == "B = 61 to 79"
    assert said["floor (paper)"].strip() == "beta2 > beta1/(2 - beta1)"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rule", "B.real", *RULE[2:]], "'B.real' is not allowed"),
        ([*RULE[:2], "--beta1", "0.95 if B else 1", *RULE[4:]], "'0.95 if B else 1' is not allowed"),
        ([*OTHER_RULE[:4], "--batch", "1:81"], "Invalid beta2 = 1 - 0.0125*B: -0.0125 at B = 81 is not in [0, 1)"),
        ([*RULE[:4], "--batch", "1:99999999999"], "at most 10,000,000"),
    ],
)
def test_errors_of_a_rule_are_one_line(capsys, words, message):
    assert cli.main(["stability", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ctadam: --rule: ") and message in line


@pytest.mark.parametrize(
    "words",
    [
        [], ["0.9"], ["0.9", "0.99", "0.999"], ["0.9", "0.99", "--betas", "0.9", "0.99"], ["0.9", "x"],
        ["0.9", "0.99", "--k", "0"], ["0.9", "0.99", "--k", "1000000000"], ["0.9", "0.99", "--stages", "linear"],
        RULE[:4], [*RULE[:2], *RULE[4:]], [*RULE[:4], "--batch", "0:9"], [*RULE[:4], "--batch", "9:3"],
        [*RULE, "0.9", "0.99"], [*RULE, "--k", "2"], ["0.9", "0.99", *RULE[2:4]], ["0.9", "0.99", *RULE[4:]],
    ],
)  # fmt: skip
def test_stability_asks_for_a_pair_or_a_rule(capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(["stability", *words])
    assert stop.value.code == 2
    assert "usage: ctadam stability" in capsys.readouterr().err


def test_the_readme_shows_what_stability_prints(root, capsys):
    command, *shown = (
        (root / "README.md").read_text(encoding="utf-8").partition("    $ ctadam stability ")[2].partition("\n\n")[0]
    ).splitlines()
    assert cli.main(["stability", *command.split()]) == 0
    assert capsys.readouterr().out.splitlines() == [line.removeprefix("    ") for line in shown]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_cannot_be_encoded_is_replaced(results, root, monkeypatch, encoding):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.chdir(root)
    (results / "claims.csv").unlink()
    assert cli.main(["stability", "--betas", "0.999", "0.9"]) == 0
    words = ["--experiments", "growth", "scale_invariance", "tightness"]
    assert cli.main(["judge", str(results), *words]) == 0 and (results / "claims.csv").exists()
    assert cli.main(["results", "laptop/k_sweep"]) == 0
    assert cli.main(["draw", "fig2", "nowhere/γ≤β", "--out", "nowhere"]) == 1
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    with pytest.raises(SystemExit):
        cli.main(["run", "γ≤β"])
    said, errors = (stream.buffer.getvalue().decode(encoding) for stream in streams.values())
    assert "beta1 = ? = 0.999" in said and "usage: ctadam run" in said
    assert "no runs in nowhere/???" in errors and "Traceback" not in errors


def ctadam(*words, python=(), **options):
    """The command in a process of its own."""
    environment = os.environ | {"PYTHONUNBUFFERED": ""} | options.pop("env", {})
    command = [sys.executable, *python, "-m", "ctadam", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False, **options)


@pytest.mark.slow
def test_the_posix_locale_shows_a_verdict_and_an_error():
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    good = ctadam("stability", "--betas", "0.9", "0.99", env=env, stdout=subprocess.PIPE)
    assert good.returncode == 0 and b"beta1 = ? = 0.9" in good.stdout and not good.stderr
    bad = ctadam("results", "γ", env=env, stdout=subprocess.PIPE)
    assert bad.returncode == 1 and bad.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_costs_nothing(unbuffered):
    read, write = os.pipe()
    os.close(read)
    env = {"PYTHONUNBUFFERED": unbuffered}
    try:
        for words in (["stability", "--betas", "0.9", "0.99"], ["--help"]):
            done = ctadam(*words, env=env, stdout=write)
            assert (done.returncode, done.stderr) == (0, b"")
    finally:
        os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_but_not_where_the_result_is_a_file(results, monkeypatch, capsys):
    (results / "claims.csv").unlink()
    for words, status in ((["stability", "--betas", "0.9", "0.99"], 1), (["judge", str(results)], 0)):
        with open("/dev/full", "w", encoding="utf-8") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert cli.main(words) == status
        said = capsys.readouterr().err
        assert "ctadam: cannot write to standard output: No space left" in said and "Traceback" not in said
    assert (results / "claims.csv").exists()


@pytest.mark.slow
def test_commands_work_without_docstrings_and_assertions(root):
    """``python -OO``, or PYTHONOPTIMIZE=2."""
    program = """
import sys
from ctadam.cli import main
assert False, "-OO drops this"
for words in (["--help"], ["stability", "--help"]):
    try:
        main(words)
    except SystemExit as stop:
        if stop.code:
            raise
sys.exit(main(["stability", "--betas", "0.9", "0.99"]) or main(["results", "laptop"]))
"""
    done = subprocess.run([sys.executable, "-OO", "-c", program], cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"usage: ctadam stability" in done.stdout and b"sets of runs" in done.stdout


def test_a_code_table_that_lacks_an_entry_is_named(results, monkeypatch, capsys):
    from ctadam.experiments.baselines import measure as measured

    monkeypatch.delitem(measured.SIGNS, "text")
    assert cli.main(["measure", "baselines", str(results)]) == 1
    assert (
        capsys.readouterr().err == "ctadam: experiments/baselines/measure.py: SIGNS has no entry for 'text': add one\n"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["stability", "--betas", "0.9", "1.0"], "Invalid beta2: 1.0 is not in [0, 1)"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.lr=-1"], "growth.lr: -1 is not allowed"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.lr"], "'growth.lr' is not KEY=VALUE"),
        (["run", "growth", "--scale", "smoke", "--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.text.source=no/such.txt"], "cannot read the text 'no/such.txt'"),
        (["run", "growth", "--scale", "smoke", "--shard", "99/99"], "there are only 14 runs"),
                (["run", "k_sweep", "--scale", "smoke", "--set", "k_sweep.ks=[1, 3]"], "k_sweep.ks: [1, 3] is not allowed"),
        (["run", "k_sweep", "--scale", "smoke", "--set", "k_sweep.images.source=no/such"], "no images in 'no/such'"),
        (["promote", "desk"], "no runs in results/fresh/desk/baselines"),
        (["predict", "growth", "nowhere"], "no runs in nowhere/growth"),
        (["measure", "tightness", "nowhere"], "no runs in nowhere/tightness"),
        (["draw", "fig2", "nowhere", "--out", "nowhere"], "no runs in nowhere/growth"),
        (["judge", "nowhere"], "no results in nowhere"),
        (["promote", "paper"], "no runs in results/fresh/paper/baselines"),
    ],
)  # fmt: skip
def test_errors_are_one_line(root, tmp_path, capsys, monkeypatch, words, message):
    # A directory of its own, with the artifact's configuration: nothing may be written into the checkout.
    (tmp_path / "workflow").symlink_to(root / "workflow")
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    "words", [["run", "nothing"], ["stability", "--betas", "0.9"], ["run", "growth", "--shard", "3/2"],
              ["stability", "--betas", "0.9", "0.9", "--steps", "0"], []],
)  # fmt: skip
def test_wrong_words_exit_with_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: ctadam" in capsys.readouterr().err


def test_shards_make_up_the_whole_and_repeat_their_bytes(smoke, tmp_path):
    """Runs do not depend on how they are assigned to shards, and a repeated shard has the same bytes."""
    for shard in ("1/3", "2/3", "3/3"):
        assert (
            cli.main(["run", "growth", "--scale", "smoke", "--device", "cpu", "--shard", shard, "--out", str(tmp_path)])
            == 0
        )
    whole, parts = (
        pd.concat(pd.read_parquet(p) for p in (d / "growth").glob("*.parquet")).sort_values(
            ["run", "step"], ignore_index=True
        )
        for d in (smoke, tmp_path)
    )
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)
    first = tmp_path / "growth/shard-1-of-3.parquet"
    before = sha256(first)
    first.unlink()
    assert (
        cli.main(["run", "growth", "--scale", "smoke", "--device", "cpu", "--shard", "1/3", "--out", str(tmp_path)])
        == 0
    )
    assert sha256(first) == before


def test_an_interrupted_run_goes_on_where_it_stopped(results):
    kept, lost = results / "growth/shard-1-of-2.parquet", results / "growth/shard-2-of-2.parquet"
    expected, age = sha256(lost), kept.stat().st_mtime_ns
    lost.unlink()
    words = ["run", "growth", "--scale", "smoke", "--device", "cpu", "--out", str(results)]
    assert cli.main(words) == 0
    assert sha256(lost) == expected and kept.stat().st_mtime_ns == age
    # Other parameters are another run: nothing is kept.
    assert cli.main([*words, "--set", "growth.lr=0.002"]) == 0
    assert kept.stat().st_mtime_ns != age
    assert json.loads(kept.with_suffix(".json").read_text())["parameters"]["lr"] == 0.002


def test_a_damaged_shipped_ledger_costs_its_column_and_not_the_verdicts(results, tmp_path, capsys):
    (tmp_path / "claims.csv").write_text("id,value\nS1,1\n")
    assert cli.main(["judge", str(results), "--shipped", str(tmp_path / "claims.csv")]) == 0
    assert "without the shipped values, because" in capsys.readouterr().err
    assert "shipped" not in pd.read_csv(results / "claims.csv")


def test_provenance_says_where_a_result_came_from(smoke):
    path = smoke / "growth/shard-1-of-2.parquet"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256(path) and record["file"] == path.name
    assert record["rows"] == len(pd.read_parquet(path))
    assert record["experiment"] == "growth" and record["scale"] == "smoke" and record["device"] == "cpu"
    assert record["parameters"]["n_points"] == 8 and record["parameters"]["seeds"] == [100]
    assert len(record["data"]["pydoc"]) == 64 and len(record["code"]) == 64
    assert record["packages"]["torch"] and record["determinism"]["threads"] == 1
    assert record["wall_s"] > 0 and record["cpu_s"] > 0 and record["started"].endswith("+00:00")
    assert record["machine"]["cores"] == os.cpu_count() and record["machine"]["processor"]
    # An interpreter with torch takes more than 100 MB, and no process more than the machine has.
    assert 100e6 < record["max_rss"] < record["machine"]["memory"]


def test_log_holds_what_the_terminal_shows(tmp_path, smoke):
    log = tmp_path / "logs/measure.log"
    assert cli.main(["--log", str(log), "measure", "growth", str(smoke)]) == 0
    assert "measurements.csv: 14 rows" in log.read_text()


def test_unwritable_places_are_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["run", "tightness", "--scale", "smoke", "--out", str(tmp_path / "file")]
    assert cli.main(words) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("ctadam: cannot write")
    assert cli.main(["--log", str(tmp_path / "file/x.log"), "judge", str(tmp_path)]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys, tmp_path):
    import builtins

    real = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        if name == "ctadam.artifact.ledger" or name.startswith("pandas"):
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "ctadam.artifact.ledger", raising=False)
    monkeypatch.delattr(
        "ctadam.artifact.ledger", raising=False
    )  # where another test has imported it, the package holds it too
    monkeypatch.setattr(builtins, "__import__", without_pandas)
    assert cli.main(["judge", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err.strip()
        == "ctadam: judge needs the package pandas: in the checkout, pip install '.[workflow]'"
    )


def test_config_lists_every_parameter_with_its_value_bounds_and_meaning(capsys):
    from ctadam.artifact import config

    def leaves(node, path):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}") if isinstance(value, dict) else [f"{path}.{key}"]

    for scale in config.SCALES:
        assert cli.main(["config", "--scale", scale]) == 0
        lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
        resolved = config.resolve(scale)
        expected = [key for name in EXPERIMENTS for key in leaves(resolved[name], name)]
        assert sorted(key for key, *_ in lines) == sorted(expected)
        assert all(len(cells) == 4 and all(cells) for cells in lines)


def test_config_shows_the_values_of_one_experiment_at_a_scale(capsys):
    assert cli.main(["config", "growth", "--scale", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "growth.n_points  8  integer in [1, inf)  points equally spaced along the normal curve" in [
        re.sub(" {2,}", "  ", line) for line in lines
    ]
    assert len({line.index("number in (") for line in lines if "  number in (" in line}) == 1  # aligned
