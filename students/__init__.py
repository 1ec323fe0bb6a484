"""Models that learn: built from scratch, trained by TRL through one seam, and answering as a teacher does."""
