"""What a user of Boxkeep installs: command line and client."""
