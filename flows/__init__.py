"""WHEN: order, repetition, caching and placement of the stages. The only place that knows Prefect.

Libraries read the environment when they are imported, so it is made fit before: see `environment`.
"""

from flows import import_path as import_path  # first: it decides where all others are found
from flows.environment import prepare

prepare()
