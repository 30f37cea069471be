"""Training on pseudo-labels: the order of images in an epoch, and the training steps."""
