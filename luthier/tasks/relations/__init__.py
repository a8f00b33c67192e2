"""What `relation-extraction` is made of: texts with two marked entities, their tokens, rows."""
