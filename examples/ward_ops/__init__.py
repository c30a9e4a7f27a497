"""The stand-in for Ward OPS: its data, its three services under supervisord, a whole local site, and the demo."""
