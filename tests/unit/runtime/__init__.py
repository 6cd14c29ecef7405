"""The tests of what runs inside the cluster."""
