"""The operations of the API, one noun a file."""
