"""HOW: models, data, clustering, training and artifact formats. Knows no run folder and no Prefect."""
