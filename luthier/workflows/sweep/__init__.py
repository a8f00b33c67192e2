"""Search: many trainings of one recipe with other values of some keys, the best by its validation rows."""
