"""A local Airflow with a PostgreSQL of its own, the processes that it consists of, and a client of its REST API.

The programs of the container stack that need no Airflow, and the settings that both stacks share, are here too. Accounts and
log-ins are in ``accounts``.
"""
