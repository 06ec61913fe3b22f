"""Secure aggregation (Bell 2020): the server learns the total only."""
