# Configuration and file names. `config` holds the user's changes, CONFIG the validated whole.
import os
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
# Relative to the working directory (usually ".", another with --directory), so that moving the checkout triggers no rerun.
HERE = Path(os.path.relpath(ROOT))
if os.pathsep in str(ROOT):
    raise WorkflowError(
        f"{ROOT} contains {os.pathsep!r}, which separates directories in PYTHONPATH: move or rename the checkout"
    )
sys.path.insert(0, str(ROOT / "src"))


def prepend(variable, directory):
    """Prepend a directory to a search path that the jobs inherit."""
    rest = os.environ.get(variable)
    os.environ[variable] = f"{directory}{os.pathsep}{rest}" if rest else str(directory)


# Jobs use this checkout's package and this interpreter, even if neither is installed or activated.
prepend("PYTHONPATH", ROOT / "src")
prepend("PATH", Path(sys.executable).parent)

from ctadam import experiments
from ctadam.artifact import config as configuration
from ctadam.artifact import figures
from ctadam.artifact.code import PACKAGE, claim_ids, closure
from ctadam.errors import ArtifactError
from ctadam.storage.manifest import read_manifest

if PACKAGE != (ROOT / "src" / "ctadam").resolve():
    raise WorkflowError(
        f"another ctadam was imported, from {PACKAGE}, not that of {ROOT}"
    )

try:
    # Not `config`: Snakemake drops duplicate keys there, and the quotes that distinguish text from numbers.
    changes = configuration.changes(
        workflow.config_settings.configfiles, workflow.config_settings.config_args
    )
    SCALE = changes.get("scale", "laptop")
    CONFIG = configuration.resolve(SCALE, changes)
except ArtifactError as error:
    raise WorkflowError(str(error))

EXPERIMENTS, FIGURES = experiments.EXPERIMENTS, figures.FIGURES
# Experiments whose runs a claim needs; and those of each figure and claim.
CLAIMS = {id: (name,) for name in EXPERIMENTS for id in claim_ids(name)}
NEEDS = FIGURES | CLAIMS

# GPUs per training job. The profile allows one at a time; without a GPU the jobs share the cores.
GPU = (
    int(shutil.which("nvidia-smi") is not None)
    if CONFIG["device"] == "auto"
    else int(CONFIG["device"] != "cpu")
)


wildcard_constraints:
    tree="fresh|redrawn",
    shard=r"\d+",
    shards=r"\d+",
    which=r"fig\d+|[A-Z]+\d+",


def code(*modules):
    """Return the source files that modules depend on, for `input: code=`: an edit triggers a rerun, a touch does not."""
    files = closure(*(f"ctadam.{module}" for module in modules))
    return [str(HERE / "src" / "ctadam" / file.relative_to(PACKAGE)) for file in files]


def templates(*patterns):
    """Return the templates of HTML pages that match the patterns, for `input:`."""
    folder = HERE / "src/ctadam/artifact/report/templates"
    return sorted(str(path) for pattern in patterns for path in folder.glob(pattern))


def of_experiments(names, stage):
    """Return the modules of one stage of the given experiments."""
    return [f"experiments.{name}.{stage}" for name in names]


# Shipped results are read-only: no rule has an output here.
CACHED = HERE / "results" / "cached" / SCALE


def manifest():
    """Return the names of the shipped files of this scale."""
    try:
        return read_manifest(CACHED)
    except ArtifactError as error:
        raise WorkflowError(str(error))


def present(tree):
    """Return the experiments of a tree: all configured ones (fresh), or those of them that are shipped (redrawn)."""
    if tree == "fresh":
        return list(EXPERIMENTS)
    shipped = {name.split("/")[0] for name in manifest()}
    return [experiment for experiment in EXPERIMENTS if experiment in shipped]


def drawn(tree):
    """Return the figures that a tree's experiments suffice for."""
    return [name for name, needs in FIGURES.items() if set(needs) <= set(present(tree))]


def raw(tree, experiment):
    """Return the raw runs of a tree: the shipped ones (redrawn), or those that the configuration asks for (fresh)."""
    if tree == "redrawn":
        shipped = [name for name in manifest() if name.startswith(f"{experiment}/")]
        if not shipped:
            raise WorkflowError(f"no runs of {experiment} are shipped in {CACHED}")
        return [str(CACHED / name) for name in shipped]
    directory = f"results/fresh/{SCALE}"
    shards = CONFIG[experiment]["shards"]
    stems = [
        f"{directory}/{experiment}/shard-{i}-of-{shards}" for i in range(1, shards + 1)
    ]
    return [f"{stem}.{suffix}" for stem in stems for suffix in ("parquet", "json")]


def derived(experiments):
    """Return the derived tables of the given experiments and their records, with the wildcard `tree`."""
    return [
        f"results/{{tree}}/{SCALE}/{experiment}/{name}.{suffix}"
        for experiment in experiments
        for name in ("predictions", "measurements")
        for suffix in ("csv", "json")
    ]


def figure_paths(tree, figure):
    """Return the files of a figure."""
    return [
        str(path) for path in figures.paths(figure, f"paper_figures/{tree}/{SCALE}")
    ]


def shipped_ledger(wildcards):
    """Return the option that adds the shipped values to the ledger of fresh runs."""
    ledger = CACHED / "claims.csv"
    if wildcards.tree == "fresh" and ledger.exists():
        return f"--shipped {shlex.quote(str(ledger))}"
    return ""
