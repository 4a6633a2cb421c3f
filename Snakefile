# Rebuilds the paper from raw runs, in five stages: train -> predict -> measure -> draw -> judge.
#
#   snakemake --cores                  everything, retrained (scale laptop; --config scale=smoke or scale=paper)
#   snakemake --cores all fig2         what figure 2 needs, retrained
#   snakemake --cores 1 cached         every figure and claim from the shipped runs; nothing is trained
#   snakemake --cores 1 cached_fig2    figure 2 from the shipped runs
#   snakemake --cores 1 verify         are the shipped runs what they say they are?
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.claims.input,


rule cached:
    input:
        # Named here, so that a missing run is an error and not hidden by tables made from it earlier.
        lambda wildcards: [
            path for name in present("cached") for path in raw("cached", name)
        ],
        lambda wildcards: [
            path
            for figure in drawn("cached")
            for path in figure_paths("cached", figure)
        ],
        f"results/cached/{SCALE}/claims.csv",


# One file for a browser, of the shipped runs: snakemake --cores 1 report --report-after-run --report report.html
rule report:
    input:
        rules.cached.input,
        [f"results/cached/{SCALE}/{page}.html" for page in ("claims", "provenance")],


# The same of one's own runs.
rule fresh_report:
    input:
        rules.all.input,
        [f"results/fresh/{SCALE}/{page}.html" for page in ("claims", "provenance")],


# All hashes of the shipped results, and a sample of their runs made again on this machine.
rule verify:
    input:
        rules.cached.input[0],
    log:
        f"results/logs/cached/{SCALE}/verify.log",
    conda:
        "environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} verify {params.scale}"


rule promote:
    input:
        [path for experiment in EXPERIMENTS for path in raw("fresh", experiment)],
    log:
        f"results/logs/fresh/{SCALE}/promote.log",
    localrule: True
    conda:
        "environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} promote {params.scale}"
