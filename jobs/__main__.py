"""`python -m understudy.jobs`: the command where no path has its script, as on a cluster that the code was sent to."""

from .cli import main

main()
