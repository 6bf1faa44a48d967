"""The commands that the server adds to `boxkeep`: one file a subject."""
