"""Notices to people and their outbox, the roles of a plan, and the auth manager's ids of its people.

The channels themselves (Slack, mail) and the accounts in Airflow are elsewhere: in ``tasks`` and ``accounts``.
"""
