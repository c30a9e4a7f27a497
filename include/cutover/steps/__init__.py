"""The steps of the runbook, in files named after the task groups of the DAGs, and how a step is run.

Nothing here knows Airflow: operators and DAG parts are in ``tasks``. Order, phases and terms are in ``runs.runbook``.
"""
