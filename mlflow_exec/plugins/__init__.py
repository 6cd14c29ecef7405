"""The rim: thin modules, one for each MLflow entry point."""
