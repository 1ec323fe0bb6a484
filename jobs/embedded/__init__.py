"""How the teacher that ships in the package is made: its corpus, its grammar and its training."""
