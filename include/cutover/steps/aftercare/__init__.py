"""The steps of ``aftercare_<plan>``, one file for each task. The checks, the record and the report are in the package
``aftercare``; nothing here changes the evidence of the cutover, which is sealed.
"""
