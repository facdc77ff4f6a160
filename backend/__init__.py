"""An agent server that starts whole with one command."""
