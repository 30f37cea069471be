"""From features to pseudo-labels: PCA, whitening, L2, and one of several clusterings."""
