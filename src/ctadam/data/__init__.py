"""What the models learn: texts that every installation has, and others by path."""
