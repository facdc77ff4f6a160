"""PostgreSQL: what is kept, and the statements that keep and read it."""
