"""What a Ray job of ours and whoever submits it have to agree upon; needs no Ray."""

from __future__ import annotations

JOB_MODULE = "mlflow_exec.scoring.ray_job"
"""What the job runs, with the name of a folder on Python's path."""
ORDER = "order.json"
"""The file in that folder that says what is to be done; see `mlflow_exec.scoring.ray_job.run`."""
REFUSED = "mlflow-exec refuses: "
"""Begins the line of the log that says why it is not done."""
PASSED_OVER = "mlflow-exec passes over: "
"""Begins the line of the log with what this Ray does not know of the application."""
