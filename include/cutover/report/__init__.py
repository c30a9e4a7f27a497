"""The report of a run: its story read from the evidence, the HTML page, the timeline and the incident document.

Nothing here writes evidence or touches a database. The report about the time after go-live is in ``aftercare``.
"""
