"""HOW: models, data, clustering, training, artifact formats. Knows no run and no Prefect."""
