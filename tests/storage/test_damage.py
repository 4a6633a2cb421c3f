"""Shipped results that were damaged: named, with what to do; no figure and no verdict is made from them.

The kinds tried here are the rows of the table in docs/reproducibility.md.
"""

import json
import os
import random
import re
import shutil

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctadam import cli
from ctadam.artifact import figures, verify
from ctadam.artifact import ledger as claims
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.manifest import MANIFEST, read_manifest
from ctadam.storage.provenance import read_provenance, sha256, write_table
from ctadam.storage.store import DERIVED, read_csv, read_runs


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sign(tree, *names):
    """Make the manifest agree with the files, so that hashes do not show the damage."""
    entries = read_manifest(tree) | {name: sha256(tree / name) for name in names}
    (tree / MANIFEST).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(entries.items())))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_a_column(tree, shard):
    """Simulate another version of the code: file, provenance and manifest agree."""
    table, record = pd.read_parquet(shard), read_provenance(shard)
    write_table(table.drop(columns=table.columns[-1]), shard, {k: v for k, v in record.items() if k != "sha256"})
    sign(tree, *(f"{shard.parent.name}/{shard.with_suffix(s).name}" for s in (".parquet", ".json")))


def edit_a_value(path):
    """Change a digit, which leaves the file readable."""
    text = path.read_text()
    place = re.search(r"\d(?=\d*\s*$)", text).start()
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def other_runs(tree, shard):
    """Replace the runs that derived tables were made from."""
    table, record = pd.read_parquet(shard), read_provenance(shard)
    column = table.select_dtypes("float").columns[-1]
    write_table(table.assign(**{column: table[column] * 2}), shard, {k: v for k, v in record.items() if k != "sha256"})
    sign(tree, *(f"{shard.parent.name}/{shard.with_suffix(s).name}" for s in (".parquet", ".json")))


#: Kind -> (what is done to a tree and one shard of it, what is said, does it concern the raw runs).
KINDS = {
    "raw runs: truncated": (lambda tree, shard: truncate(shard), "is damaged or was edited", True),
    "raw runs: a byte changed": (lambda tree, shard: flip_a_byte(shard), "is damaged or was edited", True),
    "raw runs: missing": (lambda tree, shard: shard.unlink(), "is missing|no runs in", True),
    "raw runs: another shard's file in their place": (
        lambda tree, shard: [shutil.copy(p.with_suffix(s), shard.with_suffix(s)) for p in [other_shard(tree, shard)]
                             for s in (".json", ".parquet")], "is not the file that was shipped|out of place", True,
    ),
    "raw runs: a shard more than the manifest lists": (
        lambda tree, shard: shutil.copy(shard, shard.with_name("shard-9-of-9.parquet")),
        "several divisions|is not in .*SHA256SUMS", True,
    ),
    "raw runs: a column is missing, all hashes agree": (drop_a_column, "lacks|column|other tables", True),
    "provenance: edited": (
        lambda tree, shard: edit_json(shard.with_suffix(".json"), seconds=0), "is not the file that was shipped", True,
    ),
    "provenance: missing": (lambda tree, shard: shard.with_suffix(".json").unlink(), "has no provenance", True),
    "provenance: not JSON": (lambda tree, shard: shard.with_suffix(".json").write_text("{"), "is damaged", True),
    "manifest: another digest": (
        lambda tree, shard: (tree / MANIFEST).write_text(
            (tree / MANIFEST).read_text().replace(sha256(shard), "0" * 64)), "is not the file that was shipped", True,
    ),
    "manifest: a line is missing": (
        lambda tree, shard: (tree / MANIFEST).write_text(
            "".join(x for x in (tree / MANIFEST).open() if shard.name not in x or shard.parent.name not in x)),
        "is not in .*SHA256SUMS", True,
    ),
    "manifest: not a list of digests": (
        lambda tree, shard: (tree / MANIFEST).write_text("nonsense\n"), "cannot read the line 'nonsense'", True,
    ),
    "derived table: edited": (
        lambda tree, shard: edit_a_value(shard.with_name("measurements.csv")), "is damaged or was edited", False,
    ),
    "derived table: truncated": (
        lambda tree, shard: truncate(shard.with_name("predictions.csv")), "is damaged or was edited", False,
    ),
    "derived table: missing": (
        lambda tree, shard: shard.with_name("predictions.csv").unlink(), "is missing: (make it|restore it) with", False,
    ),
    "derived table: its record is missing": (
        lambda tree, shard: shard.with_name("measurements.json").unlink(), "has no provenance", False,
    ),
    "derived table: made from other runs": (other_runs, "was made from other tables", False),
}  # fmt: skip


def other_shard(tree, shard):
    """Return a shard with other runs, from another experiment if this one has a single shard."""
    return next(p for p in sorted(tree.glob("*/shard-*.parquet")) if sha256(p) != sha256(shard) and p.parent == shard.parent) \
        if len(list(shard.parent.glob("shard-*.parquet"))) > 1 \
        else next(p for p in sorted(tree.glob("*/shard-*.parquet")) if p.parent != shard.parent)  # fmt: skip


@pytest.fixture
def tree(shipped, tmp_path):
    """Return a copy of the shipped tree that a test may damage."""
    return shutil.copytree(shipped, tmp_path / "results/cached/smoke")


def test_documentation_lists_the_tested_damage(root):
    page = (root / "docs/reproducibility.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([^|]+: [^|]+) \|", page.partition("| tried |")[2], re.MULTILINE) == list(KINDS)


def test_undamaged_tree_passes(shipped):
    assert verify.damage(shipped) == []


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_reported_and_nothing_is_derived(tree, tmp_path, kind, capsys):
    damage, message, raw = KINDS[kind]
    # Another experiment for each kind, so that all of them are met.
    experiment = list(EXPERIMENTS)[list(KINDS).index(kind) % len(EXPERIMENTS)]
    shard = sorted((tree / experiment).glob("shard-1-of-*.parquet"))[0]
    damage(tree, shard)
    assert any(experiment in problem or MANIFEST in problem for problem in verify_damage(tree))
    # Tables derived again from the shipped runs, as they lie beside them.
    redrawn = tree.parents[1] / "redrawn/smoke"
    shutil.copytree(tree, redrawn, ignore=shutil.ignore_patterns("shard-*", MANIFEST, "config.yaml"))
    ledger = claims.ledger_path(redrawn).read_bytes()
    assert cli.main(["judge", str(redrawn)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("ctadam: ") and re.search(message, said[0]), said
    assert claims.ledger_path(redrawn).read_bytes() == ledger
    if raw:
        figure = next(f for f, needs in figures.FIGURES.items() if experiment in needs)
        if kind != "raw runs: a column is missing, all hashes agree":
            assert cli.main(["draw", figure, str(tree), "--out", str(tmp_path / "figures")]) == 1
            assert cli.main(["measure", experiment, str(redrawn)]) == 1
            assert not (tmp_path / "figures").exists()
    else:
        with pytest.raises(ArtifactError, match=message):
            for name in DERIVED:
                read_csv(tree, experiment, name)


def test_shard_without_a_column_raises(tree):
    """`concat` would fill the column with empty cells."""
    experiment = next(name for name in EXPERIMENTS if len(list((tree / name).glob("shard-*.parquet"))) > 1)
    drop_a_column(tree, sorted((tree / experiment).glob("shard-*.parquet"))[-1])
    with pytest.raises(ArtifactError, match=r"lacks the column\(s\)"):
        read_runs(tree, experiment)


def test_missing_column_is_named(results, capsys):
    """All shards come from another version of the code."""
    for shard in (results / "growth").glob("shard-*.parquet"):
        record = read_provenance(shard)
        table = pd.read_parquet(shard).drop(columns="update_row")
        write_table(table, shard, {k: v for k, v in record.items() if k != "sha256"})
    before = (results / "growth/measurements.csv").read_bytes()
    assert cli.main(["measure", "growth", str(results)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "lacks what this code asks for (" in said[0] and "update_row" in said[0]
    assert (results / "growth/measurements.csv").read_bytes() == before


def test_runs_with_different_parameters_raise(results):
    path = results / "growth/shard-1-of-2.json"
    record = json.loads(path.read_text())
    edit_json(path, parameters=record["parameters"] | {"lr": 0.5})
    with pytest.raises(ArtifactError, match="were made with different parameters"):
        read_runs(results, "growth")


def test_edited_ledger_is_not_shown(tree):
    from ctadam.artifact.report import html as pages

    edit_a_value(claims.ledger_path(tree))
    assert any("claims.csv" in problem for problem in verify.damage(tree))
    with pytest.raises(ArtifactError, match="edited"):
        pages.ledger_page(tree)
    with pytest.raises(ArtifactError, match="was edited"):
        claims.add_shipped_columns(claims.judge(tree), claims.ledger_path(tree))


def verify_damage(tree):
    try:
        return verify.damage(tree)
    except ArtifactError as error:
        return [str(error)]


def meaning(tree, path):
    """Return what is read from a file that is not hashed itself, or its bytes."""
    try:
        if path.name == MANIFEST:
            return read_manifest(tree)
        if path.suffix == ".json" and path.with_suffix(".csv").exists():
            return {k: v for k, v in read_provenance(path.with_suffix(".csv")).items() if k in ("sha256", "made_from")}
    except (ArtifactError, OSError):
        return None
    return path.read_bytes() if path.exists() else None


OPERATIONS = {
    "change a byte": lambda old, rng: old[: (i := rng.randrange(len(old)))] + bytes([old[i] ^ 1]) + old[i + 1 :],
    "change many bits": lambda old, rng: old[: (i := rng.randrange(len(old)))] + bytes([old[i] ^ 255]) + old[i + 1 :],
    "cut off": lambda old, rng: old[: rng.randrange(len(old))],
    "take out": lambda old, rng: old[: (i := rng.randrange(len(old)))] + old[i + rng.randrange(1, 100) :],
    "put in": lambda old, rng: old[: (i := rng.randrange(len(old) + 1))] + rng.randbytes(rng.randrange(1, 100)) + old[i:],
    "repeat": lambda old, rng: old + old,
    "remove": lambda old, rng: None,
}  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(place=st.integers(0, 10**6), operation=st.sampled_from(sorted(OPERATIONS)), seed=st.integers(0, 2**32 - 1))
def test_any_damage_is_reported_or_harmless(shipped, tmp_path_factory, place, operation, seed):
    """Damage at any place of any file is reported or does not change what is read."""
    files = sorted(p.relative_to(shipped) for p in shipped.rglob("*") if p.is_file())
    tree = tmp_path_factory.mktemp("damaged") / "results/cached/smoke"
    shutil.copytree(shipped, tree, copy_function=os.link)  # the one file is replaced, not written into
    path = tree / files[place % len(files)]
    before, old = meaning(tree, path), path.read_bytes()
    new = OPERATIONS[operation](old, random.Random(seed))
    path.unlink()
    if new is not None:
        path.write_bytes(new)
    found = verify_damage(tree)
    same = new is not None and meaning(tree, path) == before
    assert same or found, f"{operation} in {path.name} was not noticed"
    if found and not same:
        text = " ".join(found)
        named = path.name in text or path.with_suffix(".csv").name in text or path.name == MANIFEST
        assert named and re.search("git checkout|make it|ctadam|restore|no shipped results", text), found
    shutil.rmtree(tree)
