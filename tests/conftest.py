"""What all tests share: real clusters, and asserts that show their values."""

import pytest

pytest.register_assert_rewrite("mlflow_exec.testing", "tests.servers")

pytest_plugins = [
    "tests.clusters.pytest_kubernetes",
    "tests.clusters.pytest_kueue",
    "tests.clusters.pytest_ray",
]
