"""A fully convolutional network on Pascal VOC: training and mean intersection over union."""
