"""What keeps the book in order: notebooks, new chapters, bibliography, releases, PDF."""
