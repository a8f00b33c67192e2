"""Level 0: what every room may use. Imports nothing of Luthier and no torch."""
