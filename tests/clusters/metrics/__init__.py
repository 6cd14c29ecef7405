"""Kubernetes' metrics-server, built from its Go module, beside a cluster of the tests."""
