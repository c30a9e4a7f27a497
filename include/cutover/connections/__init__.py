"""Ways to other hosts and to passwords: commands here and over SSH, connections from the environment, secrets, TLS.

The plan names them and Airflow holds them; no password comes from a plan. Sessions with PostgreSQL are in ``target``.
"""
