"""Tables and verdicts do not depend on the vector instructions that NumPy and torch find on a processor.

Instructions can be switched off, so one processor stands for those that have fewer. What each of them makes of the shipped runs
is compared with what is shipped, by the same tolerances as `snakemake cached`.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

#: Groups of instructions beyond NumPy's baseline that this processor has, from the least to the newest.
FOUND = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
#: What is switched off: nothing, the newest, the newest two, …, all.
LEVELS = [FOUND[i:] for i in range(len(FOUND), -1, -1)]

DERIVE = """
import sys
from ctadam.artifact import derive, ledger, verify
from ctadam.artifact.promote import shipped_experiments
from ctadam.storage.store import DERIVED
results = sys.argv[1]
for scale in sys.argv[2:]:
    redrawn = f"{results}/redrawn/{scale}"
    experiments = list(shipped_experiments(f"results/cached/{scale}"))
    for experiment in experiments:
        for name in DERIVED:
            derive.write(redrawn, experiment, name)
    ledger.write(ledger.judge(redrawn, experiments), redrawn)
    for check in verify.compare_redrawn(scale, results=results, pictures=None):
        print(f"{check.outcome}|{check.what}|{check.note}")
"""


def check(root, tmp_path, off, scales):
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(off)}
    if off == FOUND:
        environment |= {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", DERIVE, tmp_path / "results", *scales],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) > 3 * len(scales)
    assert [line for line in lines if line[0] == "differs"] == []
    assert {line[0] for line in lines if line[1] == "verdicts"} <= {"same", "agrees"}


def test_without_any_vector_instructions(root, tmp_path):
    check(root, tmp_path, FOUND, ["laptop"])


@pytest.mark.slow
@pytest.mark.parametrize("off", LEVELS, ids=lambda off: f"without {' '.join(off)}" if off else "all")
def test_at_every_level(root, tmp_path, off):
    check(root, tmp_path, off, ["laptop", "paper"])
