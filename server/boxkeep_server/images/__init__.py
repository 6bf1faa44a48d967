"""The recipes of the images, one file each."""
