"""The command line: what it says, what it writes, and that bad input costs one line."""

import json

import pandas as pd
import pytest

from ctadam import cli
from ctadam.provenance import sha256


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
    "words, message",
    [
        (["stability", "--betas", "0.9", "1.0"], "Invalid beta2: 1.0 is not in [0, 1)"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.lr=-1"], "growth.lr: -1 is not allowed"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.lr"], "'growth.lr' is not KEY=VALUE"),
        (["run", "growth", "--scale", "smoke", "--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["run", "growth", "--scale", "smoke", "--set", "growth.text=no/such.txt"], "cannot read the text 'no/such.txt'"),
        (["run", "growth", "--scale", "smoke", "--shard", "99/99"], "there are only 9 runs"),
        (["run", "growth", "--scale", "cifar_subset"], "the scale cifar_subset has no growth (it has stages, baselines)"),
        (["run", "stages", "--scale", "smoke", "--set", "stages.ks=[1, 3]"], "stages.ks: [1, 3] lacks 1 or 2"),
        (["run", "stages", "--scale", "smoke", "--set", "stages.images.source=no/such"], "no images in 'no/such'"),
        (["promote", "cifar_subset"], "no runs in results/fresh/cifar_subset/stages"),
        (["predict", "growth", "nowhere"], "no runs in nowhere/growth"),
        (["measure", "tightness", "nowhere"], "no runs in nowhere/tightness"),
        (["draw", "fig2", "nowhere", "--out", "nowhere"], "no runs in nowhere/growth"),
        (["judge", "nowhere"], "no results in nowhere"),
        (["promote", "paper"], "no runs in results/fresh/paper/trajectory"),
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
    """The runs do not depend on how they are dealt to shards, and a repeated shard has the same bytes."""
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
    assert record["parameters"]["points"] == 8 and record["parameters"]["seeds"] == [0]
    assert len(record["data"]["pydoc"]) == 64 and len(record["code"]) == 64
    assert record["packages"]["torch"] and record["determinism"]["threads"] == 1
    assert record["wall_s"] > 0 and record["started"].endswith("+00:00")


def test_log_holds_what_the_terminal_shows(tmp_path, smoke):
    log = tmp_path / "logs/measure.log"
    assert cli.main(["--log", str(log), "measure", "growth", str(smoke)]) == 0
    assert "measurements.csv: 9 rows" in log.read_text()


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
        if name == "ctadam.claims" or name.startswith("pandas"):
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "ctadam.claims", raising=False)
    monkeypatch.delattr("ctadam.claims", raising=False)  # where another test has imported it, the package holds it too
    monkeypatch.setattr(builtins, "__import__", without_pandas)
    assert cli.main(["judge", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err.strip()
        == "ctadam: judge needs the package pandas: in the checkout, pip install '.[workflow]'"
    )
