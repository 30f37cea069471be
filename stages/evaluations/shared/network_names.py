"""Names of the networks in the results of evaluations; importing this needs no torch."""

RANDOM = "random"
SUPERVISED = "supervised"
