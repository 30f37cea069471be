"""How long tests wait for something to happen.

No result depends on it: a test that hangs fails after this time instead of never. Whole commands
that took a minute on two busy cores have taken four on slower ones.
"""

WITHIN_S = 600
"""The longest that a test waits for a process to start, to answer, or to end, seconds."""
