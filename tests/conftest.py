"""What all tests share: real clusters, and asserts that show their values."""

import signal

import pytest

pytest.register_assert_rewrite("mlflow_exec.testing", "tests.servers")

pytest_plugins = [
    "tests.clusters.pytest_kubernetes",
    "tests.clusters.pytest_kueue",
    "tests.clusters.pytest_ray",
    "tests.clusters.pytest_yarn",
]

# A shell that starts the tests in the background has the keyboard's signals ignored, and whatever
# they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
