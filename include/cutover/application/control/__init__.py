"""What controls the application's services: supervisord, systemd, Compose, or commands of the plan."""
