"""The application that moves: its services, its configuration, and checks of it over HTTP.

Its database is the concern of ``source`` and ``target``; how commands reach another host, of ``connections``.
"""
