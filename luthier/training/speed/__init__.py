"""What makes a step faster: one means per file, each with a switch under `training.speed`."""
