"""Test storage: missing, damaged or mixed results and results of other code are rejected, and writes are atomic."""

import json
import os
import shutil

import pandas as pd
import pytest

from ctadam import cli
from ctadam.artifact import config, derive, figures
from ctadam.artifact import ledger as claims
from ctadam.artifact.promote import CONFIG, promote, renew, shipped_experiments
from ctadam.errors import ArtifactError
from ctadam.storage.manifest import MANIFEST, read_manifest, runs_directory
from ctadam.storage.provenance import is_complete, read_provenance, sha256, write_atomically, write_derived, write_table
from ctadam.storage.store import read_csv, read_runs

SHARD = "growth/shard-1-of-2.parquet"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def drop_a_column(path):
    table = pd.read_parquet(path).drop(columns="update_max")
    write_table(table, path, {k: v for k, v in read_provenance(path).items() if k not in ("file", "sha256", "rows")})


DAMAGE = {
    "missing": (lambda path: path.unlink(), "shard-1-of-2.parquet is missing"),
    "truncated": (truncate, "is damaged or was edited"),
    "edited": (flip_a_byte, "is damaged or was edited"),
    "without provenance": (lambda path: path.with_suffix(".json").unlink(), "has no provenance"),
    "provenance no JSON": (lambda path: path.with_suffix(".json").write_text("{"), "is damaged"),
    "without a column": (drop_a_column, r"lacks the column\(s\) update_max"),
    "mixed divisions": (lambda path: path.with_name("shard-1-of-3.parquet").touch(), r"several divisions \(2, 3\)"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported(results, damage):
    damaged, message = DAMAGE[damage]
    damaged(results / SHARD)
    with pytest.raises(ArtifactError, match=message):
        read_runs(results, "growth", ["run", "step", "update_max"])
    assert cli.main(["predict", "growth", str(results)]) == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_give_no_figure_or_verdict(results, tmp_path, damage):
    DAMAGE[damage][0](results / SHARD)
    assert cli.main(["draw", "fig2", str(results), "--out", str(tmp_path / "figures")]) == 1
    assert not (tmp_path / "figures").exists()
    before = (results / "claims.csv").read_bytes()
    assert cli.main(["judge", str(results)]) == 1
    assert (results / "claims.csv").read_bytes() == before


def test_missing_derived_table_names_its_command(results):
    (results / "growth/measurements.csv").unlink()
    with pytest.raises(ArtifactError, match="make it with `ctadam measure growth"):
        read_csv(results, "growth", "measurements")


def test_runs_are_sorted(smoke):
    runs = read_runs(smoke, "growth")
    assert runs[["run", "step"]].apply(tuple, axis=1).is_monotonic_increasing
    assert runs["run"].nunique() == 14


def test_failed_write_keeps_the_previous_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(temporary):
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(ArtifactError, match=r"cannot write .*No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_equal_tables_give_equal_bytes(tmp_path):
    table = pd.DataFrame({"run": [0, 1], "x": [0.1, 0.2], "name": ["a", "b"]})
    for name in ("a.parquet", "b.parquet"):
        write_table(table, tmp_path / name, {"note": 1})
    assert sha256(tmp_path / "a.parquet") == sha256(tmp_path / "b.parquet")
    assert is_complete(tmp_path / "a.parquet")
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["note"] == 1 and record["rows"] == 2
    for name in ("a.csv", "b.csv"):
        write_derived(table, tmp_path / name, {"runs.parquet": "0" * 64})
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["made_from"] == {"runs.parquet": "0" * 64}


@pytest.fixture
def tree(results, tmp_path):
    """Return a results directory with complete fresh runs and nothing shipped."""
    fresh = tmp_path / "checkout/results/fresh"
    fresh.mkdir(parents=True)
    results.rename(fresh / "smoke")
    return fresh.parent


def test_promote_copies_complete_runs_and_lists_them(tree):
    written = promote("smoke", results=tree)
    manifest = read_manifest(tree / "cached/smoke")
    assert set(manifest) == {p.relative_to(tree / "cached/smoke").as_posix() for p in written} - {MANIFEST}
    assert CONFIG in manifest and all(
        sha256(tree / "cached/smoke" / name) == digest for name, digest in manifest.items()
    )
    pd.testing.assert_frame_equal(read_runs(tree / "cached/smoke", "growth"), read_runs(tree / "fresh/smoke", "growth"))


def test_promote_never_overwrites_silently(tree):
    promote("smoke", results=tree, experiments=["growth"])
    before = {path: path.read_bytes() for path in (tree / "cached").rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="already holds shipped runs: --force"):
        promote("smoke", results=tree, experiments=["growth"])
    with pytest.raises(ArtifactError, match="already holds shipped runs: --force"):
        promote("smoke", results=tree, experiments=["quadratic", "growth"])
    assert {path: path.read_bytes() for path in (tree / "cached").rglob("*") if path.is_file()} == before
    promote("smoke", results=tree, experiments=["quadratic", "tightness"])  # others are not in the way
    promote("smoke", results=tree, experiments=["growth"], force=True)
    assert len(read_manifest(tree / "cached/smoke")) == 9  # two files a shard, and the parameters
    # Runs that no manifest lists are in the way as well.
    (tree / "cached/smoke" / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="already holds shipped runs: --force"):
        promote("smoke", results=tree, experiments=["growth"])


def test_promote_replaces_shards_of_another_division_and_what_was_derived(tree):
    """The runs are shipped in two shards and then run in three."""
    promote("smoke", results=tree)
    shipped = tree / "cached/smoke"
    derive.write(shipped, "growth", "predictions")
    shutil.rmtree(tree / "fresh/smoke/growth")
    words = [
        "run",
        "growth",
        "--scale",
        "smoke",
        "--device",
        "cpu",
        "--set",
        "growth.shards=3",
        "--set",
        "growth.steps=20",
        "--set",
        "growth.batch_rule.steps=20",
    ]
    assert cli.main([*words, "--out", str(tree / "fresh/smoke")]) == 0
    promote("smoke", results=tree, experiments=["growth"], force=True)
    names = {path.name for path in (shipped / "growth").iterdir()}
    assert names == {f"shard-{i}-of-3.{suffix}" for i in (1, 2, 3) for suffix in ("parquet", "json")}
    assert set(read_manifest(shipped)) == {
        path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()
    } - {MANIFEST}
    assert config.read_yaml(shipped / CONFIG)["growth"]["shards"] == 3
    assert read_runs(shipped, "growth")["step"].max() == 19


@pytest.mark.slow
def test_what_is_shipped_is_complete_after_promotion(tree):
    """Tables, figures and ledger are derived from the promoted runs and from those shipped before."""
    pictures = tree.parent / "paper_figures"

    def ship(*experiments):
        promote("smoke", results=tree, experiments=experiments)
        written = renew("smoke", results=tree, figures=pictures, experiments=experiments)
        drawn = {path.name for path in written if path.suffix == ".png"}
        return drawn, set(claims.read_ledger(claims.ledger_path(tree / "cached/smoke"))["figure"])

    assert ship("quadratic", "k_sweep") == ({"fig5_k_sweep.png", "fig6_quadratic.png"}, {"fig5", "fig6"})
    assert ship("tightness") == (set(), {"fig5", "fig6", "fig7"})  # figure 7 shows growth, too
    claims.check_ledger(tree / "cached/smoke")
    assert figures.paths("fig6", pictures / "cached/smoke")[0].exists()
    read_csv(tree / "cached/smoke", "tightness", "measurements")


def test_a_redrawn_tree_is_made_from_the_shipped_runs(tree, monkeypatch, root):
    promote("smoke", results=tree, experiments=["growth"])
    redrawn = tree / "redrawn/smoke"
    assert runs_directory(redrawn) == tree / "cached/smoke"
    assert cli.main(["predict", "growth", str(redrawn)]) == 0
    assert [path.name for path in sorted(redrawn.rglob("*.*"))] == ["predictions.csv", "predictions.json"]
    pd.testing.assert_frame_equal(
        read_csv(redrawn, "growth", "predictions"), read_csv(tree / "fresh/smoke", "growth", "predictions")
    )
    # Outside a checkout it is the shipped runs of the checkout that the package lies in.
    monkeypatch.chdir(tree.parents[1])
    assert runs_directory(tree.parents[1] / "results/redrawn/laptop") == root / "results/cached/laptop"
    assert runs_directory(tree / "fresh/smoke") == tree / "fresh/smoke"


@pytest.mark.parametrize(
    "words",
    [
        ["run", "quadratic", "--scale", "smoke", "--out", "{tree}/results/cached/smoke"],
        ["predict", "growth", "{tree}/results/cached/smoke"],
        ["measure", "growth", "{tree}/results/cached/smoke"],
        ["judge", "{tree}/results/cached/smoke"],
        ["pages", "{tree}/results/cached/smoke"],
        ["draw", "fig2", "{tree}/results/cached/smoke", "--out", "{tree}/paper_figures/cached/smoke"],
    ],
    ids=lambda words: words[0],
)
def test_only_promote_writes_to_a_shipped_tree(shipped, words, capsys):
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    assert cli.main([word.format(tree=shipped.parents[2]) for word in words]) == 1
    assert "only `ctadam promote` writes there" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before


def test_parent_directory_named_cached_is_not_a_shipped_tree(results, tmp_path):
    moved = tmp_path / "cached/artifact/results/fresh/smoke"
    moved.parent.mkdir(parents=True)
    results.rename(moved)
    truncate(moved / SHARD)
    with pytest.raises(ArtifactError, match="run it again"):
        read_runs(moved, "growth")
    assert cli.main(["predict", "quadratic", str(moved)]) == 0


def test_overlapping_shards_raise(results):
    record = read_provenance(results / SHARD)
    second = results / "growth/shard-2-of-2.parquet"
    write_table(
        pd.read_parquet(results / SHARD),
        second,
        {k: v for k, v in record.items() if k != "sha256"} | {"file": second.name},
    )
    for columns in (None, ["run", "lr"], ["lr"]):
        with pytest.raises(ArtifactError, match=r"runs of growth .* overlap: two rows share run = "):
            read_runs(results, "growth", columns)


def test_the_shipped_tree_carries_its_own_configuration(tree):
    """The configuration of the runs has the workflow's format."""
    promote("smoke", results=tree)
    shipped = config.read_yaml(tree / "cached/smoke" / CONFIG)
    assert config.resolve("smoke", shipped) == config.resolve("smoke")
    for experiment, records in shipped_experiments(tree / "cached/smoke").items():
        assert shipped[experiment] == records[0]["parameters"]


def test_promote_refuses_runs_of_another_scale(tree):
    (tree / "fresh/smoke").rename(tree / "fresh/laptop")
    with pytest.raises(ArtifactError, match=r"made at scale 'smoke', not 'laptop'"):
        promote("laptop", results=tree)
    assert not (tree / "cached").exists()


def test_promote_is_all_or_nothing(tree):
    flip_a_byte(tree / "fresh/smoke/tightness/shard-1-of-1.parquet")
    with pytest.raises(ArtifactError, match="incomplete or damaged"):
        promote("smoke", results=tree)
    assert not (tree / "cached").exists()


def test_missing_or_unreadable_manifest_raises(tree):
    promote("smoke", results=tree)
    with pytest.raises(ArtifactError, match=r"scales with shipped results: smoke"):
        read_manifest(tree / "cached/laptop")
    (tree / "cached/smoke" / MANIFEST).write_text("nonsense\n")
    with pytest.raises(ArtifactError, match="cannot read the line 'nonsense'"):
        read_manifest(tree / "cached/smoke")
