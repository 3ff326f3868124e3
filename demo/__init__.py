"""The whole story in a minute: a MongoDB-protocol server, the loader, eight forked Tornado workers.

    python -m demo          (what `make demo` runs; KEEP=1 leaves everything up and prints the URLs)

    run.py         the acts, in order; exit status 0 only when every promise was kept
    world.py       the processes: server, loader, service; where their files are
    documents.py   20,000 settings of a captcha company, in three collections
    load.py        the HTTP clients, in a process of their own
    memory.py      what the documents cost in memory, in forked processes of their own
    tied.py        child processes that end with the demo, however it ends
    page.py        the page that is printed at the end

Everything listens on 127.0.0.1 and lives in one temporary directory.
"""
