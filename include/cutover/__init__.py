"""Cutover: moves a live application from SQLite to PostgreSQL and can always go back.

Layers, from the bottom: ``errors`` and ``checks``, ``plan``, the domain modules (plain functions on connections and
paths), ``tasks`` (where Airflow enters), then the DAG files. Only ``tasks``, the DAG files and the plugin import Airflow.
"""
