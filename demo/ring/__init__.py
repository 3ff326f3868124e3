"""The ring under faults: Redis servers, ZooKeeper, an agent, eight forked Tornado workers.

    python -m demo.ring          (what `make ring-demo` runs)

    run.py         the acts, in order; exit status 0 only when every promise was kept
    world.py       the processes, and what is done to them
    service.py     the workers: GET and PUT of a key, in each store
    stores.py      the stores that they have: the ring, the naive client, nutcracker
    naive.py       the naive client; circle.py is its hashing
    load.py        HTTP clients in a process of their own, which know what they must read
    judge.py       what of it was lost, and what is older than it may be
    installed.py   what the machine has, and how servers are started; the tests use it, too

All three stores have the same faults at the same moment, on servers of their own.
"""
