"""Suites: a YAML file of named validations that a model has to pass, each with a severity.

`reading.read_suite` reads one, `settings` says what stands in it, `judging.judge` tells whether a
model passes.
"""
