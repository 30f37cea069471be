"""WHEN: order, repetition, caching and placement of the stages. The only place that knows Prefect.

Libraries are told their settings through the environment, before they are imported; what the
person has set stays as it is.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# OpenMP's threads spin while they wait for each other, and so take the cores from those that load
# images and from other programs: measured on two cores beside one busy program, training was 3.3
# times as fast without.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without a server of their own people get the embedded one; 20 s to start are not always enough.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
