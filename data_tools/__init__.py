"""FROM WHAT it learns: sources -> parallel shards; translation; quality; verification."""
