# Per figure: a rule that draws it (for either tree), and one target per tree, which ends with the verdicts on its claims.
for figure, needs in FIGURES.items():

    rule:
        name:
            f"draw_{figure}"
        input:
            runs=lambda wildcards, needs=needs: [
                path for name in needs for path in raw(wildcards.tree, name)
            ],
            derived=derived(needs),
            code=code(figures.module(figure)),
        output:
            figures.paths(figure, f"paper_figures/{{tree}}/{SCALE}")[0],
            report(
                figures.paths(figure, f"paper_figures/{{tree}}/{SCALE}")[1],
                caption=f"../report/{figure}.rst",
                category="2 Figures",
                labels={
                    "figure": figure,
                    "shows": figures.caption_title(ROOT, figure),
                    "runs": "{tree}",
                },
            ),
        log:
            f"results/logs/{{tree}}/{SCALE}/draw_{figure}.log",
        conda:
            "../../environment.yml"
        params:
            figure=figure,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} draw {params.figure} results/{wildcards.tree}/{params.scale}"
            " --out paper_figures/{wildcards.tree}/{params.scale}"

    rule:
        name:
            figure
        input:
            # Listed explicitly: missing runs (a job failed) must be made, even where older tables and figures exist.
            [path for name in needs for path in raw("fresh", name)],
            figure_paths("fresh", figure),
            f"results/fresh/{SCALE}/claims_{figure}.csv",
        log:
            f"results/logs/fresh/{SCALE}/ledger_{figure}.log",
        conda:
            "../../environment.yml"
        params:
            figure=figure,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} ledger results/fresh/{params.scale} --only {params.figure}"

    rule:
        name:
            f"cached_{figure}"
        input:
            # Listed explicitly: a missing run must be an error, even where tables derived from it still exist.
            lambda wildcards, needs=needs: [
                path for name in needs for path in raw("redrawn", name)
            ],
            figure_paths("redrawn", figure),
            f"results/redrawn/{SCALE}/claims_{figure}.csv",
        log:
            f"results/logs/redrawn/{SCALE}/compare_{figure}.log",
        conda:
            "../../environment.yml"
        params:
            figure=figure,
            scale=SCALE,
        shell:
            "python -m ctadam --log {log} compare {params.scale} --only {params.figure}"


rule figures:
    input:
        [path for experiment in EXPERIMENTS for path in raw("fresh", experiment)],
        [path for figure in FIGURES for path in figure_paths("fresh", figure)],
