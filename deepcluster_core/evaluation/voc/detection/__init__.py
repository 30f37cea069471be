"""Fast R-CNN on Pascal VOC: object proposals, training and average precision."""
