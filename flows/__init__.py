"""WHEN: order, repetition, caching and placement of the stages. The only place that knows Prefect.

Libraries are told their settings through the environment, before they are imported; what the
person has set stays as it is.
"""

import os

from deepcluster_core.limits import limit_threads

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false")
# OpenMP's threads spin 30 times as long before they sleep, and so take the cores from the threads
# that load images and from other programs. Measured on two cores, an epoch of the demo's training:
# 7.1 s with the default and 7.5 s so on a quiet machine, 52 s and 17 s beside one busy program.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Without a server of their own people get the embedded one; 20 s to start are not always enough.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# Fewer threads than cores where the container may use a part of their time only.
limit_threads()
