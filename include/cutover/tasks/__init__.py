"""Steps as Airflow tasks: operators, gates, groups, forms, limits, and the factory that builds a DAG for each plan.

The steps themselves are in ``steps``; pages and links of the UI are in ``ui``.
"""
