"""The dev environment: runs, watches, restarts and stops processes. It knows nothing of what they do."""
