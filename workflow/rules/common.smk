# Configuration and the names of files. `config` holds what the user changed; CONFIG is the whole, checked.
import os
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
# The checkout as seen from the working directory (another one with --directory): "." in general, so that a checkout that is
# moved is not another one.
HERE = Path(os.path.relpath(ROOT))
if os.pathsep in str(ROOT):
    raise WorkflowError(
        f"{ROOT} contains {os.pathsep!r}, which separates directories in PYTHONPATH: move or rename the checkout"
    )
sys.path.insert(0, str(ROOT / "src"))


def prepend(variable, directory):
    """Put a directory first in a search path that the jobs inherit."""
    rest = os.environ.get(variable)
    os.environ[variable] = f"{directory}{os.pathsep}{rest}" if rest else str(directory)


# The jobs run this checkout's package with this interpreter, whether or not either is activated or installed.
prepend("PYTHONPATH", ROOT / "src")
prepend("PATH", Path(sys.executable).parent)

from ctadam import experiments
from ctadam.artifact import config as configuration
from ctadam.artifact import figures
from ctadam.artifact.code import PACKAGE, closure
from ctadam.errors import ArtifactError
from ctadam.storage.manifest import read_manifest

if PACKAGE != (ROOT / "src" / "ctadam").resolve():
    raise WorkflowError(
        f"another ctadam was imported, from {PACKAGE}, not that of {ROOT}"
    )

try:
    # Not `config`: there Snakemake has dropped one of two equal keys and the quotes that tell text from numbers.
    changes = configuration.changes(
        workflow.config_settings.configfiles, workflow.config_settings.config_args
    )
    SCALE = changes.get("scale", "laptop")
    CONFIG = configuration.resolve(SCALE, changes)
except ArtifactError as error:
    raise WorkflowError(str(error))

# A scale may hold some of the experiments only.
EXPERIMENTS = [name for name in experiments.EXPERIMENTS if name in CONFIG]
FIGURES = {
    figure: needs
    for figure, needs in figures.FIGURES.items()
    if set(needs) <= set(EXPERIMENTS)
}

# One GPU job at a time is the profile's limit; without a GPU the jobs share the cores.
GPU = (
    int(shutil.which("nvidia-smi") is not None)
    if CONFIG["device"] == "auto"
    else int(CONFIG["device"] != "cpu")
)


wildcard_constraints:
    tree="fresh|redrawn",
    shard=r"\d+",
    shards=r"\d+",


def code(*modules):
    """Source files that determine what modules do, for `input: code=`: an edit re-plans, a touch does not."""
    files = closure(*(f"ctadam.{module}" for module in modules))
    return [str(HERE / "src" / "ctadam" / file.relative_to(PACKAGE)) for file in files]


def of_experiments(names, stage):
    """The modules of one stage of some experiments."""
    return [f"experiments.{name}.{stage}" for name in names]


# What is shipped lies in the checkout and is never written: no rule has an output there.
CACHED = HERE / "results" / "cached" / SCALE


def manifest():
    """The names of the shipped files of this scale."""
    try:
        return read_manifest(CACHED)
    except ArtifactError as error:
        raise WorkflowError(str(error))


def present(tree):
    """The experiments of a tree: those the configuration has, or of them those that are shipped."""
    if tree == "fresh":
        return list(EXPERIMENTS)
    shipped = {name.split("/")[0] for name in manifest()}
    return [experiment for experiment in EXPERIMENTS if experiment in shipped]


def drawn(tree):
    """The figures that can be drawn from them."""
    return [name for name, needs in FIGURES.items() if set(needs) <= set(present(tree))]


def raw(tree, experiment):
    """The raw runs that a tree is made from: those shipped, or those the configuration asks for."""
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
    """The derived tables of some experiments, and the records of what they were made from, in either tree."""
    return [
        f"results/{{tree}}/{SCALE}/{experiment}/{name}.{suffix}"
        for experiment in experiments
        for name in ("predictions", "measurements")
        for suffix in ("csv", "json")
    ]


def figure_paths(tree, figure):
    """The files of a figure."""
    return [
        str(path) for path in figures.paths(figure, f"paper_figures/{tree}/{SCALE}")
    ]


def shipped_ledger(wildcards):
    """The option that shows the shipped values beside one's own."""
    ledger = CACHED / "claims.csv"
    if wildcards.tree == "fresh" and ledger.exists():
        return f"--shipped {shlex.quote(str(ledger))}"
    return ""
