"""Runs that are killed at any moment go on where they stopped, and a place that cannot be written costs one line."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from ctadam import cli
from ctadam.storage.provenance import is_complete, sha256

SHARDS = 4
KILLS = 20
WORDS = [
    "--scale", "smoke", "--device", "cpu", "--set", f"tightness.shards={SHARDS}", "--set", f"quadratic.shards={SHARDS}",
    "--set", f"growth.shards={SHARDS}", "--set", "growth.steps=20",
    "--set", "tightness.draws=1000", "--set", "quadratic.grid=20",
]  # fmt: skip

# A process that has imported everything and forks for each run: the kills then fall into the work, not into the imports.
SERVER = """
import os, signal, sys, time
import pandas, pyarrow.parquet, torch
from ctadam import cli
from ctadam.experiments import EXPERIMENTS, load
for name in EXPERIMENTS:
    load(name)
torch.set_num_threads(1)
for line in sys.stdin:
    delay, *words = line.split()
    child = os.fork()
    if child == 0:
        os._exit(cli.main(words))
    if delay != "never":
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)  # not yet waited for, so it is this child even if it has ended
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
"""


@pytest.fixture
def launch(tmp_path, root):
    """Run ``ctadam`` with some words in a process of its own; gives its exit status, or "killed" if it was, after a delay."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=root,
    )  # fmt: skip

    def run(*words, kill_after="never"):
        server.stdin.write(f"{kill_after} {' '.join(words)}\n")
        server.stdin.flush()
        return server.stdout.readline().strip()

    yield run
    server.stdin.close()
    server.wait()


def tables(directory):
    return {path.name: sha256(path) for path in sorted(directory.glob("*.parquet"))}


def complete(directory):
    return {path.name for path in directory.glob("*.parquet") if is_complete(path)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quadratic", "tightness", "growth"])
def test_a_run_killed_twenty_times_loses_at_most_one_shard_and_ends_in_the_same_bytes(launch, tmp_path, name):
    """SIGKILL at a random moment of a run, and again of the run that resumes it; then the run is allowed to finish."""
    rng = random.Random(0)
    # A short text: reading the long one again for every shard would be most of this test.
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{rng.randrange(200)}" for _ in range(5000)))
    words = ["run", name, *WORDS, "--set", f"growth.text.source={text}", "--out"]
    assert launch(*words, str(tmp_path / "first")) == "0"  # also warms up
    began = time.monotonic()
    assert launch(*words, str(tmp_path / "undisturbed")) == "0"
    whole = time.monotonic() - began
    expected = tables(tmp_path / "undisturbed" / name)
    assert len(expected) == SHARDS and tables(tmp_path / "first" / name) == expected
    landed, out, disturbed = 0, None, 0
    while landed < KILLS:
        disturbed += 1
        assert disturbed < 40, "the kills come too late to hit anything"
        out = tmp_path / f"killed-{disturbed}" / name
        for _ in range(3):
            before = complete(out)
            times = {n: (out / n).stat().st_mtime_ns for n in before}
            landed += launch(*words, str(out.parent), kill_after=rng.uniform(0, 0.9 * whole)) == "killed"
            after = complete(out)
            assert before <= after, "a finished shard was lost"
            assert all((out / n).stat().st_mtime_ns == time for n, time in times.items()), "a finished shard was redone"
            # Shards are made in order: all before the one that was being made are whole.
            numbers = sorted(int(n.split("-")[1]) for n in after)
            assert numbers == list(range(1, len(numbers) + 1))
        assert launch(*words, str(out.parent)) == "0"
        assert not list(out.glob(".*")), "a killed run's unfinished file was left"
        assert tables(out) == expected and complete(out) == set(expected)


@pytest.mark.parametrize("experiment", ["growth", "quadratic", "tightness"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, capsys, monkeypatch, experiment):
    """The disk fills while the table is written, half of it already there."""
    import pandas as pd

    def to_parquet(self, path, **options):
        with open(path, "wb") as file:
            file.write(b"PAR1 half of a table")
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", to_parquet)
    assert cli.main(["run", experiment, *WORDS, "--shard", "1/4", "--out", str(tmp_path)]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "it/s" not in line and "/s]" not in line]
    assert len(said) == 1 and said[0].startswith("ctadam: cannot write ")
    assert said[0].endswith("shard-1-of-4.parquet: No space left on device")
    assert list((tmp_path / experiment).iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_disk_that_is_really_full(tmp_path, capsys):
    """A file system of 64 KiB, too small for the table."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert (
            cli.main(
                ["run", "tightness", *WORDS, "--set", "tightness.draws=5000", "--shard", "1/2", "--out", str(disk)]
            )
            == 1
        )
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("ctadam: cannot write ") and last.endswith("No space left on device")
        assert list((disk / "tightness").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unwritable_directory_is_one_line_before_any_work(tmp_path, capsys, monkeypatch):
    """As a directory of somebody else's: nothing is trained first."""
    import tempfile

    from ctadam.experiments.quadratic import runs as quadratic

    def refuse(*args, **options):
        raise PermissionError(13, os.strerror(13), options.get("dir"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(quadratic, "run", lambda *_, **__: pytest.fail("work was done that cannot be kept"))
    assert cli.main(["run", "quadratic", *WORDS, "--shard", "1/4", "--out", str(tmp_path)]) == 1
    assert [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()] == ["Permission denied"]


def test_a_shard_runs_alone_with_what_a_gpu_machine_has(root, tmp_path):
    """No Snakemake, nothing that downloads or draws, and on a CPU no filelock; the text is read from a path."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat, and the dog by the door. " * 200)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    absent = {'snakemake', 'pooch', 'filelock', 'matplotlib', 'seaborn', 'torchvision'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in self.absent:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from ctadam.cli import main\n"
        f"sys.exit(main(['run', 'growth', '--scale', 'smoke', '--shard', '2/40', '--device', 'cpu', '--out', {str(tmp_path)!r},\n"
        f"    '--set', 'growth.text.source={text}', '--set', 'growth.steps=10']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "growth" / "shard-2-of-40.json").read_text())
    assert list(record["data"]) == [str(text)] and record["weights"]
