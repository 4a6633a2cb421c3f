"""The SLURM profile, on a SLURM of one node that the tests start: shards run as an array, ask for a GPU each, and show errors."""

import getpass
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import yaml

# Debian and Ubuntu: apt-get install --no-install-recommends munge slurmctld slurmd slurm-client
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PLUGIN = "snakemake_executor_plugin_slurm"
SBIN = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

# Without a database of finished jobs, cgroups or a service manager. The memory of the node is made up: the profile's defaults
# must fit. The GPUs are made up, too: SLURM only counts them.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def test_the_profile_hides_no_error(root):
    """With "rules" among the quiet ones, Snakemake does not show why a submitted job failed."""
    profile = yaml.safe_load((root / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8"))
    assert profile["executor"] == "slurm" and profile["show-failed-logs"] and "rules" not in profile["quiet"]
    assert any(word.startswith("runtime=") for word in profile["default-resources"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not start in {seconds} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm():
    """Start munged, slurmctld and slurmd with their files in one directory, and return the environment for commands."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
    if importlib.util.find_spec(PLUGIN) is None:
        missing.append(PLUGIN)
    if missing:
        assert not os.environ.get("CTADAM_REQUIRE_SLURM"), f"not installed: {', '.join(missing)}"
        pytest.skip(f"needs SLURM, munge and Snakemake's plugin; not installed: {', '.join(missing)}")
    host = socket.gethostname().partition(".")[0]
    # Not below pytest's directory: the path of a socket is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        directory = Path(name)
        environment = os.environ | {"PATH": f"{directory}/bin:{SBIN}", "SLURM_CONF": str(directory / "slurm.conf")}
        for sub in ("state", "spool", "bin"):
            (directory / sub).mkdir()
        key = directory / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        ports = {f"{daemon}_port": free_port() for daemon in ("slurmctld", "slurmd")}
        text = SLURM_CONF.format(host=host, user=getpass.getuser(), directory=directory, **ports)
        (directory / "slurm.conf").write_text(text, encoding="utf-8")
        # Jobs lose SLURM_CONF, because Snakemake's plugin takes the variables of an outer job away. Clusters have a file in /etc.
        srun = directory / "bin" / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={directory}/slurm.conf exec {shutil.which("srun")} "$@"\n', encoding="utf-8"
        )
        srun.chmod(0o755)
        (directory / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null,/dev/zero\n", encoding="utf-8")

        def show(what):
            words = ["scontrol", "-o", "show", *what]
            return subprocess.run(words, env=environment, capture_output=True, text=True).stdout

        munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={directory}/munge.socket"]
        munged += [f"--{file}-file={directory}/munged.{file}" for file in ("log", "pid", "seed")]
        daemons = []
        try:
            for command, ready in (
                (munged, (directory / "munge.socket").exists),
                (["slurmctld", "-D"], lambda: "PartitionName=main" in show(["partition"])),
                (["slurmd", "-D"], lambda: re.search(r"State=IDLE\b", show(["node"]))),
            ):
                with (directory / f"{command[0]}.out").open("wb") as log:
                    daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                wait_for(command[0], ready)
            yield environment
        except AssertionError:
            for log in sorted(directory.glob("*.out")):
                print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            raise
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


@pytest.fixture(scope="module")
def clone(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("cluster"))


def submit(clone, environment, *words):
    """Run Snakemake with the SLURM profile, and return the process and ``{field: value}`` of each job that SLURM was given."""
    words = [
        "--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue",
        "--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5", *words,
    ]  # fmt: skip
    before = jobs(environment)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words], cwd=clone, env=environment, capture_output=True, text=True
    )
    after = jobs(environment)
    return done, [after[id] for id in after if id not in before]


def jobs(environment):
    """Return the jobs that SLURM remembers, by id; those of the last five minutes."""
    lines = subprocess.run(["scontrol", "-o", "show", "job"], env=environment, capture_output=True, text=True).stdout
    records = [dict(re.findall(r"(\S+?)=(\S+)", line)) for line in lines.splitlines() if line.startswith("JobId=")]
    return {record["JobId"]: record for record in records}


@pytest.mark.slow
def test_shards_run_as_one_array_and_give_the_bytes_of_a_local_run(slurm, clone, tmp_path):
    table = "results/fresh/smoke/tightness/measurements.csv"
    done, made = submit(clone, slurm, "--config", "scale=smoke", "tightness={shards: 2}", "--", table)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / table).exists()
    assert {job["JobState"] for job in made} == {"COMPLETED"}
    array = [job for job in made if "ArrayTaskId" in job]
    assert sorted(job["ArrayTaskId"] for job in array) == ["1", "2"]
    assert len({job["ArrayJobId"] for job in array}) == 1 and len(made) > len(array)
    for shard in (1, 2):
        words = ["run", "tightness", "--scale", "smoke", "--set", "tightness.shards=2", "--shard", f"{shard}/2"]
        subprocess.run([sys.executable, "-m", "ctadam", *words, "--device", "cpu", "--out", tmp_path], check=True)
        name = f"tightness/shard-{shard}-of-2.parquet"
        assert (clone / "results/fresh/smoke" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_each_shard_asks_for_a_gpu_and_a_failure_is_shown(slurm, clone):
    """The made-up GPUs are none of torch's, so the jobs must fail, with the message of their log on the terminal."""
    if torch.cuda.is_available():
        pytest.skip("has a GPU, on which the job would not fail")
    path = "results/fresh/smoke/quadratic/shard-1-of-1.parquet"
    done, made = submit(clone, slurm, "--config", "scale=smoke", "device=cuda", "--", path)
    assert made and all(re.fullmatch(r"gres[:/]gpu[:=]1", job.get("TresPerJob", "")) for job in made)
    assert done.returncode != 0 and {job["JobState"] for job in made} == {"FAILED"}
    assert "cuda" in done.stdout + done.stderr and "ctadam: " in done.stdout + done.stderr
