"""A run that learns from a teacher: who it is, what it says of the rows, and what the loss makes of that."""
