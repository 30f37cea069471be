"""Code that several evaluations share."""
