"""Where bytes are kept that outlive sandboxes: a local directory, or S3 and its kin."""
