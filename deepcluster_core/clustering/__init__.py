"""From features to pseudo-labels: PCA, whitening, L2, k-means."""
