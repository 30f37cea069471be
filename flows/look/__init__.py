"""The pages of `deepcluster look`: a server on this machine over the images of a run."""
