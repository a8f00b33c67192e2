"""Small changes of a text that leave its sense: what a model is tested against. One per file."""
