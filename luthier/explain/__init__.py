"""Level 4: what a run folder tells a person: report, model card, diagnosis."""
