"""Federated training: one ServerApp, one ClientApp, three engines (this process, Flower's simulation, real devices)."""
