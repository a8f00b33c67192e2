"""Text tasks on real data: what is trained, and how its rows are laid ready."""
