"""Pages in Airflow's interface: the web application that serves reports, and the links on a task's page.

The pages are rendered in ``report`` and ``aftercare``; here is who may see them, and at which address.
"""
