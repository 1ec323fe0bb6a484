"""Rows and bytes: what a prompt, an answer and a row are, and how they reach the disk and come back.

Knows no model and no stage. Everything else in the package may import from here.
"""
