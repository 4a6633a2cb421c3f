# Train raw runs, shard by shard. Only the fresh tree has training rules.
for experiment in EXPERIMENTS:

    rule:
        name:
            f"train_{experiment}"
        input:
            code=code("determinism", f"experiments.{experiment}.runs"),
        output:
            table=f"results/fresh/{SCALE}/{experiment}/shard-{{shard}}-of-{{shards}}.parquet",
            provenance=f"results/fresh/{SCALE}/{experiment}/shard-{{shard}}-of-{{shards}}.json",
        log:
            f"results/logs/fresh/{SCALE}/train_{experiment}/{{shard}}-of-{{shards}}.log",
        benchmark:
            f"results/logs/fresh/{SCALE}/train_{experiment}/{{shard}}-of-{{shards}}.benchmark.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG[experiment]["threads"]
        resources:
            gpu=GPU,
        params:
            # Only this experiment's parameters, so that a change retrains only what it affects.
            parameters=CONFIG[experiment],
            experiment=experiment,
            scale=SCALE,
            out=lambda wildcards, output: Path(output.table).parents[1],
            device=CONFIG["device"],
            changes=" ".join(
                f"--set {shlex.quote(word)}"
                for word in configuration.assignments(SCALE, CONFIG, experiment)
            ),
        shell:
            "python -m ctadam --log {log} run {params.experiment} --scale {params.scale} {params.changes}"
            " --shard {wildcards.shard}/{wildcards.shards} --device {params.device} --out {params.out}"
