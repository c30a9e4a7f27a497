"""Controllers of the application's services: supervisord, systemd, Compose, or commands of the plan.

Each reports a service's state and gives it orders. Order, waiting and verification are in ``application.services``.
"""
