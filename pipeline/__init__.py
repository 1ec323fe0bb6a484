"""The stages of a run and what joins them: recipe, prompts, generate, label, curate, train, evaluate, report."""
