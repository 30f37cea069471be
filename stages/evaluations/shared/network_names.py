"""Names of the networks in the results of evaluations; importing this needs no torch."""

RANDOM = "random"
GIVEN = "given weights"
"""The network as `network.weights` initialises it, before any training."""
SUPERVISED = "supervised"
REFERENCES = (RANDOM, GIVEN, SUPERVISED)
"""Networks that were not trained on clusters, and so do not depend on k."""
