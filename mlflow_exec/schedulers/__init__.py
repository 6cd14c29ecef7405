"""Schedulers: a job specification becomes a native job, a native state becomes a status."""
