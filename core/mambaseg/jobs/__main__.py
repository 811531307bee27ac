"""`python -m mambaseg.jobs`: the child process of a `Worker`."""

from mambaseg.jobs.child import main

main()
