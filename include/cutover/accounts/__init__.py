"""Accounts in Airflow: log-in, roles and their members, and everything that must be set up before Airflow starts.

The roles themselves, and who has them, are defined in ``people`` without Airflow.
"""
