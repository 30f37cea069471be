"""Object stores behind a run: a local mirror, what is published to it, and leases on it."""
