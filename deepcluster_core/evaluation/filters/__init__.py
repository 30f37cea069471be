"""What the filters of a network respond to."""
