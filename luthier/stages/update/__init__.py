"""A finished run is tuned on new rows, and measured on its old ones."""
