"""Measurements, each beside a peer in the same call: `invoke bench NAME`."""
