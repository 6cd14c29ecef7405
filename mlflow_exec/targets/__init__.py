"""Targets: what turns a release into a native service, and tells how it goes."""
