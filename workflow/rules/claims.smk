# Judge claims: estimates, intervals, verdicts; for fresh runs with the shipped ones as columns.
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
        "python -m ctadam --log {log} judge results/{wildcards.tree}/{params.scale} --quiet {params.only} {params.shipped}"


# Judge the claims of one figure, or a single claim.
rule judge_only:
    input:
        runs=lambda wildcards: [
            path
            for name in NEEDS[wildcards.which]
            for path in raw(wildcards.tree, name)
        ],
        derived=lambda wildcards: [
            path.format(tree=wildcards.tree)
            for path in derived(NEEDS[wildcards.which])
        ],
        code=lambda wildcards: code(*of_experiments(NEEDS[wildcards.which], "claims")),
    output:
        table=f"results/{{tree}}/{SCALE}/claims_{{which}}.csv",
        record=f"results/{{tree}}/{SCALE}/claims_{{which}}.json",
    log:
        f"results/logs/{{tree}}/{SCALE}/judge_{{which}}.log",
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
        shipped=shipped_ledger,
    shell:
        "python -m ctadam --log {log} judge results/{wildcards.tree}/{params.scale} --quiet"
        " --only {wildcards.which} {params.shipped}"


# Per claim: one target that retrains what it needs, and one for the shipped runs.
for id, needs in CLAIMS.items():

    rule:
        name:
            id
        input:
            # Listed explicitly: missing runs (a job failed) must be made, even where older tables exist.
            [path for name in needs for path in raw("fresh", name)],
            f"results/fresh/{SCALE}/claims_{id}.csv",
        log:
            f"results/logs/fresh/{SCALE}/ledger_{id}.log",
        conda:
            "../../environment.yml"
        params:
            id=id,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} ledger results/fresh/{params.scale} --only {params.id}"

    rule:
        name:
            f"cached_{id}"
        input:
            # Listed explicitly: a missing run must be an error, even where tables derived from it still exist.
            lambda wildcards, needs=needs: [
                path for name in needs for path in raw("redrawn", name)
            ],
            f"results/redrawn/{SCALE}/claims_{id}.csv",
        log:
            f"results/logs/redrawn/{SCALE}/compare_{id}.log",
        conda:
            "../../environment.yml"
        params:
            id=id,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} compare {params.scale} --only {params.id}"


rule claims:
    input:
        [path for experiment in EXPERIMENTS for path in raw("fresh", experiment)],
        f"results/fresh/{SCALE}/claims.csv",
    log:
        f"results/logs/fresh/{SCALE}/ledger.log",
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m ctadam --log {log} ledger results/fresh/{params.scale}"


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
        code=code("artifact.report.html"),
        templates=templates("snakemake_*.html", "ledger.css"),
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
