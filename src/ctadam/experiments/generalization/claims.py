"""Claims G1-G4: generalization against C (arXiv 2411.05746, section 3)."""
