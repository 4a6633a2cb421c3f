# The ledger: prediction, measurement and verdict of every claim; beside a fresh one the shipped values.
rule judge:
    input:
        runs=lambda wildcards: [
            path for name in EXPERIMENTS for path in raw(wildcards.tree, name)
        ],
        derived=[
            f"results/{{tree}}/{SCALE}/{name}/{table}.csv"
            for name in EXPERIMENTS
            for table in ("predictions", "measurements")
        ],
        code=code("claims", "measurements/slopes.py", "theory/stability.py"),
    output:
        report(
            f"results/{{tree}}/{SCALE}/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
        ),
    log:
        f"results/logs/{{tree}}/{SCALE}/judge.log",
    # Last, so that the ledger is what stands at the end of the terminal's output.
    priority: -1
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
        shipped=lambda wildcards: (
            f"--shipped results/cached/{SCALE}/claims.csv"
            if wildcards.tree == "fresh"
            and Path(f"results/cached/{SCALE}/claims.csv").exists()
            else ""
        ),
    shell:
        "python -m ctadam --log {log} judge results/{wildcards.tree}/{params.scale} {params.shipped}"


rule claims:
    input:
        [path for experiment in EXPERIMENTS for path in raw("fresh", experiment)],
        f"results/fresh/{SCALE}/claims.csv",
