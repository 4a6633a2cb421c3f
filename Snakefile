# Reproduce the paper from raw runs in five stages: train -> predict -> measure -> draw -> judge.
#
#   snakemake                 retrain everything (scale laptop; --config scale=smoke or scale=paper)
#   snakemake fig2            retrain what figure 2 needs, and end with the verdicts on its claims
#   snakemake S3              retrain what claim S3 needs, and end with its verdict (ctadam explain S3)
#   snakemake cached          derive every figure and claim from the shipped runs and compare them; no training
#   snakemake cached_fig2     derive figure 2 from the shipped runs
#   snakemake page            write the shipped results of all scales as one page, artifact.html
#   snakemake verify          check all hashes and retrain a sample of the shipped runs
#
# Uses all cores unless --cores limits them (profiles/default).
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
    log:
        f"results/logs/fresh/{SCALE}/all.log",
    conda:
        "environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} ledger results/fresh/{params.scale}"


# Derive tables, figures and ledger from the shipped runs again and compare them with the shipped ones.
rule cached:
    input:
        # Listed explicitly: a missing run must be an error, even where tables derived from it still exist.
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


# One page of the shipped results of all scales, and of your own verdicts.
rule page:
    input:
        shipped=[
            str(path)
            for directory in ("results/cached", "paper_figures/cached")
            for path in sorted((HERE / directory).glob("*/**/*"))
            if path.is_file()
        ],
        captions=[str(HERE / f"workflow/report/{figure}.rst") for figure in FIGURES],
        history=str(HERE / "docs/ledger_history.md"),
        templates=templates("*"),
        code=code("artifact.report.page"),
    output:
        "artifact.html",
    log:
        "results/logs/page.log",
    conda:
        "environment.yml"
    params:
        # As inputs they would be made again, which trains.
        own=[
            f"{path} {path.stat().st_mtime_ns}"
            for path in sorted(Path("results/fresh").glob("*/claims.csv"))
        ],
    shell:
        "python -m ctadam --log {log} page --out {output}"


# Snakemake's own report of the shipped runs: snakemake report --report-after-run --report report.html
rule report:
    input:
        rules.cached.input,
        [f"results/redrawn/{SCALE}/{page}.html" for page in ("claims", "provenance")],


# HTML report of your own runs.
rule fresh_report:
    input:
        rules.all.input,
        [f"results/fresh/{SCALE}/{page}.html" for page in ("claims", "provenance")],


# Check all hashes of the shipped results and retrain a sample of their runs on this machine.
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
