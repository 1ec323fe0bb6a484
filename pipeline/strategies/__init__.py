"""Strategies: ways in which a teacher comes to write inputs, mixed by weight.

kinds       self-instruct, attributes, evolve, contrast, documents: one request each, by our own templates
tasks       distilabel's Tasks as kinds: magpie, evol-instruct, classification-data
mix         whose turn it is
shelf       seeds and passages to begin with
candidate   what comes of the three
writer      has it written, and reads what was said
"""
