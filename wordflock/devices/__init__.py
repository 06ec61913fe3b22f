"""Real devices: server, client, certificates, Flower's processes."""
