"""Aftercare: checks of a run that is live, the first backup of PostgreSQL, the rows written since go-live, and retention.

Here live the checks, their evidence and the post-cutover report as plain functions. When a round runs, who is asked and
what a rollback does with the rows are the concern of ``steps``.
"""
