"""What ties MLflow runs to jobs: submission, waiting, ends, logs, and the way back to them."""
