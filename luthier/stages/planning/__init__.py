"""What a run will need before it is begun: memory, time, cost, and which keys to change where it does not fit."""
