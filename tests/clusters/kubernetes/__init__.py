"""A one-node Kubernetes of real components, for the tests."""
