"""Public conformance suites: what an implementation of one of our seams must do.

``mlflow_exec.testing.schedulers`` holds the one for schedulers. The suites need pytest and the
real system that the implementation is for.
"""
