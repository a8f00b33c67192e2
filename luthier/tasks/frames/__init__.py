"""What `intent-and-slots` is made of: words of a text, slot tags, rows."""
