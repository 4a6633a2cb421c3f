"""Test the commit in provenance records: that of this artifact's repository, or none."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from ctadam.storage import provenance

GIT = (
    "git",
    "-c",
    "user.name=a",
    "-c",
    "user.email=a@b",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "commit.gpgsign=false",
)
MODULE = "src/ctadam/storage/provenance.py"


def git(directory, *words):
    return subprocess.run([*GIT, "-C", directory, *words], check=True, capture_output=True, text=True).stdout.strip()


def repository(directory, *tracked):
    """Create a repository with one commit of the given files and return the commit."""
    git(directory, "init", "-q")
    (directory / "README").write_text("one", encoding="utf-8")
    git(directory, "add", "README", *tracked)
    git(directory, "commit", "-q", "-m", "first")
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def no_inherited_repository(monkeypatch):
    """Isolate git's configuration: tests may run inside a git hook, or where git trusts every directory."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unpack(root):
    """Return a function that copies the module below a directory, as an archive or an installer would."""

    def unpack(directory, place=MODULE):
        path = directory / place
        path.parent.mkdir(parents=True)
        shutil.copy(root / MODULE, path)
        return path

    return unpack


def recorded_commit(path):
    """Return the commit that a copy of the module records."""
    spec = importlib.util.spec_from_file_location("copied_provenance", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.environment()["commit"]


def test_checkout_records_its_commit_and_dirty_state(tmp_path, unpack):
    path = unpack(tmp_path)
    commit = repository(tmp_path, MODULE)
    assert recorded_commit(path) == commit
    (tmp_path / "README").write_text("two", encoding="utf-8")
    assert recorded_commit(path) == f"{commit}-dirty"


def test_linked_worktrees_and_symlinks_are_checkouts(tmp_path, unpack):
    main = tmp_path / "main ü"
    unpack(main)
    commit = repository(main, MODULE)
    git(main, "worktree", "add", "-q", tmp_path / "other")
    assert recorded_commit(tmp_path / "other" / MODULE) == commit
    (tmp_path / "link").symlink_to(main)
    assert recorded_commit(tmp_path / "link" / MODULE) == commit


@pytest.mark.parametrize("added", [False, True])
def test_sources_inside_another_repository_record_no_commit(tmp_path, unpack, added):
    path = unpack(tmp_path / "vendor/ctadam")
    repository(tmp_path, *(["vendor"] if added else []))
    assert recorded_commit(path) is None


def test_sources_in_a_repository_that_does_not_track_them_record_no_commit(tmp_path, unpack):
    path = unpack(tmp_path)
    repository(tmp_path)
    assert recorded_commit(path) is None


def test_repository_without_commits_records_none(tmp_path, unpack):
    path = unpack(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", MODULE)
    assert recorded_commit(path) is None


def test_installed_copy_inside_a_checkout_records_no_commit(tmp_path, unpack):
    """Neither if it is ignored, nor if its directory lies two levels below the repository's root."""
    (tmp_path / ".gitignore").write_text(".venv\nlib\n", encoding="utf-8")
    unpack(tmp_path)
    repository(tmp_path, ".gitignore", MODULE)
    for place in (
        ".venv/lib/python3.12/site-packages/ctadam/storage/provenance.py",
        "lib/ctadam/storage/provenance.py",
    ):
        assert recorded_commit(unpack(tmp_path, place)) is None


def test_git_environment_variables_are_ignored(tmp_path, unpack, monkeypatch):
    own, other, archive = tmp_path / "own", tmp_path / "other", tmp_path / "archive"
    path = unpack(own)
    commit = repository(own, MODULE)
    unpack(other)
    repository(other, MODULE)
    outside = unpack(archive)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert recorded_commit(path) == commit and recorded_commit(outside) is None
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert recorded_commit(path) == commit and recorded_commit(outside) is None
    # The archive's own directory as a work tree of the other repository, which tracks a file of that name.
    monkeypatch.setenv("GIT_WORK_TREE", str(archive))
    assert recorded_commit(outside) is None


def test_failing_or_missing_git_records_none(tmp_path, unpack, monkeypatch):
    path = unpack(tmp_path)
    repository(tmp_path, MODULE)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for "dubious ownership"
        assert recorded_commit(path) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert recorded_commit(path) is None


def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    """On Linux getrusage gives a child the peak of the process that started it."""
    large = b"1" * 200_000_000
    code = (
        "from ctadam.storage.provenance import max_rss\n"
        "before = max_rss(); block = b'1' * 100_000_000; during = max_rss(); del block; print(before, during, max_rss())"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, during, after = map(int, output.split())
    assert before < 150e6 < len(large) < provenance.max_rss()
    # The kernel counts resident pages per processor and sums them with a small error.
    assert 95e6 < during - before < 110e6 and after > 0.95 * during


def test_the_machine_is_described_without_proc_and_sysconf(monkeypatch):
    """As on Windows and macOS."""
    here = provenance.machine()
    assert here["processor"] and here["cores"] == os.cpu_count() and here["memory"] > 100e6
    monkeypatch.setattr(
        provenance.Path, "read_text", lambda self, **options: (_ for _ in ()).throw(FileNotFoundError())
    )
    monkeypatch.delattr(provenance.os, "sysconf")
    elsewhere = provenance.machine()
    assert elsewhere["cores"] == here["cores"] and elsewhere["memory"] is None
    assert provenance.max_rss() > 100e6
