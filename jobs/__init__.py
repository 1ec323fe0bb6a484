"""Where runs happen: the command line, and the recipes that ship."""
