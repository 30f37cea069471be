"""Turn features into pseudo-labels: PCA, whitening, L2 normalisation and a clustering."""
