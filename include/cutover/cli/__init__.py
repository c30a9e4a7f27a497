"""The command line: a module for each command, and the rollback without Airflow.

The commands read options, call the packages below and print the result; the work itself belongs to those packages.
"""
