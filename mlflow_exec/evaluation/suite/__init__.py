"""Suites: a YAML file of named validations that a model has to pass, each with a severity.

`reading.read_suite` reads one, `settings` says what stands in it, `fitting.check_suite` refuses one
that data and model cannot answer, `judging.judge` tells whether a model passes.
"""
