"""What tasks that answer each word share: tag schemes, words in texts, files of columns, encoded words."""
