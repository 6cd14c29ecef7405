"""KServe for tests: a cluster's own where it has one, else its API with a stand-in behind it."""
