"""WHEN: order, repetition, caching and placement of the stages. The only place that knows Prefect.

Settings are given to Prefect through the environment, before it is imported; what the person has
set stays as it is.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Without a server of their own people get the embedded one; 20 s to start are not always enough.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
