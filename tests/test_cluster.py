"""The SLURM profile: every setting is one that Snakemake or the plugin has, and shards go out as an array that asks for GPUs."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import yaml


def test_the_profile_hides_no_error(root):
    """With "rules" among the quiet ones, Snakemake does not show why a submitted job failed."""
    profile = yaml.safe_load((root / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8"))
    assert profile["executor"] == "slurm" and profile["show-failed-logs"] and "rules" not in profile["quiet"]
    assert any(word.startswith("runtime=") for word in profile["default-resources"])


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("sbatch") is None or importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="needs SLURM and snakemake-executor-plugin-slurm",
)
def test_shards_go_out_as_an_array(root, tmp_path):
    """On a real SLURM: two shards, one array, and the table that is made of both."""
    here = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", root, here], check=True)
    table = "results/fresh/smoke/tightness/measurements.csv"
    words = [
        "--workflow-profile", "profiles/slurm", "--default-resources", "runtime=10", "mem_mb=1500", "slurm_account=none",
        "--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5", "--verbose",
        "--config", "scale=smoke", "tightness={shards: 2}",
    ]  # fmt: skip
    if subprocess.run(["sacct"], capture_output=True).returncode:
        words = ["--slurm-status-command", "squeue", *words]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words, "--", table], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (here / table).exists() and "--array=1-2" in done.stdout + done.stderr
