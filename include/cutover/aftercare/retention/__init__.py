"""Retention: how long the backups and the kept schemas of a plan's runs are kept. ``due.carry_out`` is the entrance.

Here live its own evidence, the reasons to keep a run, and what archives, removes and drops. Making and opening an archive is
``source.backup_archive``; the steps and the command are in ``steps`` and ``cli``.
"""
