"""Files of results: tables, provenance, hashes and the manifest of what is shipped."""
