"""The SQLite file: read without a change, fenced, backed up, restored.

Everything that opens, copies, closes or replaces that file lives here. Moving its rows (``copying``), proving them
(``proof``) and changing them by the plan's decisions (``decisions``) do not.
"""
