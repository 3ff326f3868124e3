"""A small captcha API on Tornado: eight forked workers that read their settings from one mapping.

python -m examples.tornado_service --cache /run/mmapcache/settings.mmc --workers 8

__main__.py   arguments, open the cache, fork, serve
workers.py    sockets, and the life of parent and workers
settings.py   the two sources of settings: the shared cache, or one find per request
handlers.py   the HTTP routes
"""
