"""Training on pseudo-labels: the order of an epoch, and its steps."""
