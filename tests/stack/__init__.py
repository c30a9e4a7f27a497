"""docker-compose.yaml for real: built, started, used and broken, by whatever container engine is there."""
