"""The plan file: frozen models of its keys, and how the file is read and checked.

A plan holds what cannot be found out: names, places, people, limits and texts. How the pipeline acts on it, and everything
that the catalogs of source and target know, belongs to the packages above.
"""
