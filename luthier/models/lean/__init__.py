"""The same networks with less work around the matrix products."""
