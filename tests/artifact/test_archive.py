"""The archive for a DOI: the commit's files without history, the same bytes for anyone, and it works when unpacked."""

import os
import subprocess
import sys
import tarfile

import pytest

from ctadam import __version__, cli
from ctadam.artifact.archive import archive
from ctadam.errors import ArtifactError
from ctadam.storage.provenance import sha256

NAME = f"ctadam-{__version__}"


@pytest.fixture(scope="module")
def clone(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("archive"))


def git(directory, *words):
    return subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def unpacked(clone, tmp_path_factory):
    out = tmp_path_factory.mktemp("unpacked")
    path, _, _ = archive(clone, out)
    with tarfile.open(path) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        tar.extractall(out)
    return out / NAME


def test_it_holds_the_tracked_files_and_no_history(clone, unpacked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    assert cli.main(["archive", "--out", str(tmp_path)]) == 0
    tracked = set(git(clone, "ls-files").splitlines())
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert files == tracked and ".git" not in os.listdir(unpacked)
    assert {"results/cached/laptop/SHA256SUMS", "results/cached/laptop/growth/shard-1-of-6.parquet", "LICENSE"} <= files
    path = tmp_path / f"{NAME}.tar"
    assert capsys.readouterr().out.strip() == f"{sha256(path)}  {path.name}"
    subprocess.run(["sha256sum", "-c", f"{NAME}.tar.sha256"], cwd=tmp_path, check=True, capture_output=True)
    with path.open("rb") as file:
        commit = subprocess.run(
            ["git", "get-tar-commit-id"], stdin=file, check=True, capture_output=True, text=True
        ).stdout
    assert commit == git(clone, "rev-parse", "HEAD")


def test_the_bytes_depend_on_the_commit_alone(clone, tmp_path, monkeypatch):
    """Not on the time, the file system, the user's umask or configuration of git, or what lies about untracked."""
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", clone, other)
    for key, value in (("tar.umask", "0077"), ("core.autocrlf", "true"), ("tar.tar.command", "false")):
        git(other, "config", key, value)
    (other / "untracked").write_text("mine")
    os.utime(other / "README.md", (0, 0))
    before = os.umask(0o077)
    try:
        second, _, _ = archive(other, tmp_path / "b")
    finally:
        os.umask(before)
    first, _, _ = archive(clone, tmp_path / "a")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow  # three programs start, and Snakemake derives three tables
def test_the_unpacked_archive_works(unpacked):
    environment = {**os.environ, "PYTHONPATH": str(unpacked / "src")}
    for words in (
        ["ctadam", "results", "laptop/tightness"],
        ["ctadam", "explain", "S7"],
        ["snakemake", "cached_S7"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=unpacked, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"


def test_uncommitted_changes_are_refused(clone, tmp_path):
    here = tmp_path / "clone"
    git(tmp_path, "clone", "-q", clone, here)
    (here / "README.md").write_text("changed")
    with pytest.raises(ArtifactError, match=r"commit or undo the changes first.*README\.md"):
        archive(here, tmp_path)
    git(here, "add", "README.md")
    with pytest.raises(ArtifactError, match="commit or undo"):
        archive(here, tmp_path)
    assert not list(tmp_path.glob("*.tar*"))


def test_an_unpacked_archive_cannot_be_archived_even_inside_another_repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "ctadam").mkdir()
    with pytest.raises(ArtifactError, match="not a git checkout"):
        archive(tmp_path / "ctadam", tmp_path)
