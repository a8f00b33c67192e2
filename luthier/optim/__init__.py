"""Level 1: optimisers, learning-rate schedules, parameter groups and the rates chosen when none is given."""
