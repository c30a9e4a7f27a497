"""Cutover: moves a live application from SQLite to PostgreSQL and can always go back.

Each package is named for what it does and imports only from the packages below it; the layers contract in pyproject.toml
holds their order. Only ``tasks``, ``ui`` and ``accounts``, the DAG files and the plugin import Airflow. Every package may
use the modules here: errors, checks, masking, places, files, locks.
"""
