"""The steps of ``aftercare_<plan>``, one file for each task.

Checks, record and report are in the package ``aftercare``. Nothing here changes the sealed evidence of the cutover.
"""
