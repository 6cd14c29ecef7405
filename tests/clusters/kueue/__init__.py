"""A real Kueue beside a cluster of the tests."""
