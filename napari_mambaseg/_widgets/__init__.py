"""Small widgets, one a file; each shows something and tells what the user chose."""
