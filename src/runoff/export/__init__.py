"""From the format that is there to the format that is wanted, one file per target format."""
