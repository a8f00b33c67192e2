"""Level 5, with flow: what each step of the flow is made of."""
