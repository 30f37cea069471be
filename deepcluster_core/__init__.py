"""The algorithms: models, data, clustering, training and artifact formats.

Nothing here depends on runs or on Prefect.
"""
