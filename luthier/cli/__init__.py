"""Level 7: the command line. One file per verb; each imports flow and what is below it only when it runs."""
