"""Pascal VOC: its files, and the classification, detection and segmentation tasks on them."""
