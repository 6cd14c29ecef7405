"""One module for each SDK or API; the only importers of SDKs, and where their errors end."""
