"""The evaluator: what is wrong with a model, found before it is served.

`scan.scan` runs the checks of `checks/` on `data.Data` and `model.Model`; `findings.Result` is what
it returns. `checks.base` says what a check is, `search` how slices are found, `statistics` has the
tests.
"""
