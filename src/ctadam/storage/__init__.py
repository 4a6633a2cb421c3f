"""Results on disk: tables, provenance, hashes and the list of what is shipped."""
