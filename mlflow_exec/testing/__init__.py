"""Public conformance suites: what an implementation of one of our seams must do.

``mlflow_exec.testing.schedulers`` holds the one for schedulers, ``mlflow_exec.testing.deployments``
and ``mlflow_exec.testing.endpoints`` those for targets. The suites need pytest and the real system
that the implementation is for.
"""
