"""The bodies of the steps, and how a step is run. Nothing here knows Airflow."""
