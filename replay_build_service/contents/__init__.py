"""Contents: the files of a second repository or record, brought into a session that another one's image runs."""
