"""How long tests wait for something to happen, in one place.

Never part of a result: what hangs fails after this time instead of never. Whole commands that took
a minute on two busy cores have been seen to take four on slower ones.
"""

WITHIN_S = 600
"""For a process to start, to answer, or to end."""
