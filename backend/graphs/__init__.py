"""What an agent is: nodes joined by links. Pure data; knows nothing of running or storing."""
