"""The scoring runtime: MLflow's scoring server, answer for answer, many times faster.

It runs in the model's environment, where this package is a folder on the path or a zip and nothing
else of ours is: Python 3.9 or newer with MLflow 2.10 or newer (mlflow or mlflow-skinny), pandas,
numpy and uvicorn. What makes it faster or adds to it (orjson, httptools, uvloop,
prometheus_client, opentelemetry) is used where it is installed.
"""
