# Predict each run from its parameters alone.
for experiment in EXPERIMENTS:

    rule:
        name:
            f"predict_{experiment}"
        input:
            runs=lambda wildcards, experiment=experiment: raw(
                wildcards.tree, experiment
            ),
            code=code(f"experiments.{experiment}.predict"),
        output:
            table=f"results/{{tree}}/{SCALE}/{experiment}/predictions.csv",
            record=f"results/{{tree}}/{SCALE}/{experiment}/predictions.json",
        log:
            f"results/logs/{{tree}}/{SCALE}/predict_{experiment}.log",
        conda:
            "../../environment.yml"
        params:
            experiment=experiment,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} predict {params.experiment} results/{wildcards.tree}/{params.scale}"
