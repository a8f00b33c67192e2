"""What is asked of data, of a recipe or of a finished run, without training it."""
