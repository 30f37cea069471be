"""How fast, how big, how good: each module measures one thing. `python -m benchmarks.<name>`."""

import os

ENVIRONMENT = dict(os.environ)
"""As the person set it, before any import puts settings of ours into it: every side of a benchmark
starts from this, so that the settings of one cannot help the other."""
