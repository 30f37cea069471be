"""The filters of a network, and the images that excite them."""
