"""Sign-in at the tracking server: one file for each flow, and the rules that hold for all of them.

``reading.py`` finds the settings, ``flows.py`` names the flows, ``request_auth.py`` puts a
credential on requests to the hosts that it is for. Nothing here knows MLflow.
"""
