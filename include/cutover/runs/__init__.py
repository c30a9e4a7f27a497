"""Runs as their events tell: the runbook's table, verdicts, the clock, rehearsals, schedules and incidents.

These are functions over evidence and plan. Nothing here touches a database or the application.
"""
