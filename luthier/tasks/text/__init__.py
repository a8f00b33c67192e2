"""What text tasks share."""
