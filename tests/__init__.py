"""The tests of mlflow-exec."""
