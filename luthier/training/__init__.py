"""Level 3: the loop, its step, its state and its checkpoints. It is handed a task's work and parts; it imports none."""
