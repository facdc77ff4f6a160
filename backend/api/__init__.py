"""What the server says to the outside: the REST API and the WebSocket protocol."""
