"""The loader: copies collections from MongoDB (or from files) into one cache file.

    options ──> command ──> loader ──> round, following ──> verification
                               │         │   a load; what changes; a comparison of everything
                               │         ├─────> shaping     transforms and keys
                               │         └─────> pump        a load in a thread of its own
                               │                   └────> source: mongo | files
                               ├─────> reporting what is said of it: status and log
                               ├─────> target    the cache file: lock, recreation, replacement
                               │         └─────> position    where the change streams go on
                               └─────> inbox, backoff, tally, progress, logs, redaction
                                         │                           └────> outlet: standard error
                                         └────> early: signals before there is an inbox, the exit

Each module knows those to its right only. Nothing here is imported by a worker that merely reads
(redaction, which knows nothing of the rest, is by one that shows its metrics), and pymongo is
imported by the sources alone, when one of them needs it.
"""
