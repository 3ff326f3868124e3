"""The loader: copies collections from MongoDB (or from files) into one cache file.

    options ──> command ──> loader ──> target   the cache file: lock, recreation, replacement
                               │
                               ├─────> shaping  transforms and keys
                               ├─────> pump     the source's thread and the buffers in flight
                               │         └────> source: mongo | files
                               └─────> inbox, backoff, progress, logs, redaction
                                         │                         └────> outlet: standard error
                                         └────> early: signals before there is an inbox

Each module knows those to its right only. Nothing here is imported by a worker that merely reads,
and pymongo is imported by the sources alone, when one of them needs it.
"""
