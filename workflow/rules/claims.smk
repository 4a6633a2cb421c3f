# Judge every claim: prediction, measurement, verdict; for fresh runs with the shipped values as a column.
rule judge:
    input:
        runs=lambda wildcards: [
            path
            for name in present(wildcards.tree)
            for path in raw(wildcards.tree, name)
        ],
        derived=lambda wildcards: [
            path.format(tree=wildcards.tree)
            for path in derived(present(wildcards.tree))
        ],
        code=lambda wildcards: code(*of_experiments(present(wildcards.tree), "claims")),
    output:
        table=f"results/{{tree}}/{SCALE}/claims.csv",
        record=f"results/{{tree}}/{SCALE}/claims.json",
    log:
        f"results/logs/{{tree}}/{SCALE}/judge.log",
    # Runs last, so that the terminal output ends with the ledger.
    priority: -1
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
        only=lambda wildcards: (
            ""
            if present(wildcards.tree) == list(experiments.EXPERIMENTS)
            else f"--experiments {' '.join(present(wildcards.tree))}"
        ),
        shipped=shipped_ledger,
    shell:
        "python -m ctadam --log {log} judge results/{wildcards.tree}/{params.scale} {params.only} {params.shipped}"


rule claims:
    input:
        [path for experiment in EXPERIMENTS for path in raw("fresh", experiment)],
        f"results/fresh/{SCALE}/claims.csv",


# HTML pages of the report: ledger and provenance.
rule pages:
    input:
        runs=lambda wildcards: [
            path
            for name in present(wildcards.tree)
            for path in raw(wildcards.tree, name)
        ],
        ledger=f"results/{{tree}}/{SCALE}/claims.csv",
        record=f"results/{{tree}}/{SCALE}/claims.json",
        code=code("artifact.report"),
    output:
        ledger=report(
            f"results/{{tree}}/{SCALE}/claims.html",
            caption="../report/claims.rst",
            category="1 Ledger",
            labels={"runs": "{tree}", "page": "claims and verdicts"},
        ),
        provenance=report(
            f"results/{{tree}}/{SCALE}/provenance.html",
            caption="../report/provenance.rst",
            category="3 Provenance",
            labels={"runs": "{tree}", "page": "provenance and run times"},
        ),
    log:
        f"results/logs/{{tree}}/{SCALE}/pages.log",
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} pages results/{wildcards.tree}/{params.scale}"
