"""Runs graphs: from a queued run to its last event, surviving whatever happens in between."""
