# Measure the raw runs, without theory.
for experiment in EXPERIMENTS:

    rule:
        name:
            f"measure_{experiment}"
        input:
            runs=lambda wildcards, experiment=experiment: raw(
                wildcards.tree, experiment
            ),
            code=code(f"experiments.{experiment}.measure"),
        output:
            table=f"results/{{tree}}/{SCALE}/{experiment}/measurements.csv",
            record=f"results/{{tree}}/{SCALE}/{experiment}/measurements.json",
        log:
            f"results/logs/{{tree}}/{SCALE}/measure_{experiment}.log",
        conda:
            "../../environment.yml"
        params:
            experiment=experiment,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} measure {params.experiment} results/{wildcards.tree}/{params.scale}"
