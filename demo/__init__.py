"""The whole story in a minute: a MongoDB-protocol server, the loader, eight forked Tornado workers.

    python -m demo          (what `make demo` runs; KEEP=1 leaves everything up and prints the URLs)

    run.py         the acts, in order; exit status 0 only when every promise was kept
    world.py       server, loader and service, and where their files are
    documents.py   20,000 settings of a captcha company, in three collections
    load.py        the HTTP clients, in a process of their own
    memory.py      what the documents cost in memory, in forked processes of their own
    processes.py   child processes, and what the eight workers are asked
    story.py       what a demo is told by: progress, the page, Ctrl-C
    tied.py        child processes that end with the demo, however it ends
    page.py        the page that is printed at the end
    ring/          the other demo, `make ring-demo`: Redis servers, killed and stopped

Everything listens on 127.0.0.1 and lives in one temporary directory.
"""
