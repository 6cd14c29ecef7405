"""Stores of artifacts: bytes behind a `Location`, whatever keeps them."""
