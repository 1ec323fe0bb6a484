"""Models that answer: endpoints, local folders, files of answers, and the ledger that stands before them all."""
