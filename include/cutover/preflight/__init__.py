"""Checks before anything stops: target, source, places, services and disk space; and ``doctor``, a week before the window.

They change nothing: a file that tests a place is removed again. The steps decide what follows from a check.
"""
