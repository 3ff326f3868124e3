"""`mmapcache serve`: what an operator looks at, over HTTP: a status page, probes, metrics.

It reads the file as any worker does, so that it answers when the loader is dead; and it never shows
what is in a document.

    address.py      where to listen, who may connect
    server.py       HTTP with limits: see there
    observer.py     what the file says, kept for everybody who asks
    metrics.py      what `mmapcache.prometheus` says of it
    application.py  which path is answered with what
    page.html       the status page: one file
    running.py      all of it in a thread, for `mmapcache sync --http`
    command.py      the command
"""
