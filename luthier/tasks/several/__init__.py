"""Several tasks on one trunk: each keeps its rows, loss and head, and they share everything below."""
