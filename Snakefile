# Rebuilds the paper from raw runs, in five stages: train -> predict -> measure -> draw -> judge.
#
#   snakemake                 everything, retrained (scale laptop; --config scale=smoke or scale=paper)
#   snakemake fig2            what figure 2 needs, retrained, and the verdicts on its claims
#   snakemake cached          every figure and claim from the shipped runs, compared with what is shipped; nothing is trained
#   snakemake cached_fig2     figure 2 from the shipped runs
#   snakemake verify          are the shipped runs what they say they are?
#
# All cores are used unless --cores says otherwise (profiles/default).
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


# Derived tables, figures and ledger of the shipped runs, made again beside what is shipped and compared with it.
rule cached:
    input:
        # Named here, so that a missing run is an error and not hidden by tables made from it earlier.
        lambda wildcards: [
            path for name in present("redrawn") for path in raw("redrawn", name)
        ],
        lambda wildcards: [
            path
            for figure in drawn("redrawn")
            for path in figure_paths("redrawn", figure)
        ],
        f"results/redrawn/{SCALE}/claims.csv",
    log:
        f"results/logs/redrawn/{SCALE}/compare.log",
    conda:
        "environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} compare {params.scale}"


# One file for a browser, of the shipped runs: snakemake report --report-after-run --report report.html
rule report:
    input:
        rules.cached.input,
        [f"results/redrawn/{SCALE}/{page}.html" for page in ("claims", "provenance")],


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
        f"results/logs/verify-{SCALE}.log",
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
