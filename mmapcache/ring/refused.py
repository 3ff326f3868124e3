"""Everything of redis-py that a ring does not do: why, and what to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from mmapcache.ring.errors import Unsupported

_CONDITION: Final = (
    "whether a key is there is decided by two holders that are not locked, so two clients could "
    "both be first: keep locks and once-only work in a database that has transactions"
)
_PARTS: Final = (
    "a ring keeps whole values, of which the newer one wins; two writers of parts of one would "
    "lose some: keep one key for each part, or the whole as one value (JSON, for example)"
)
_SEVERAL: Final = (
    "keys lie on different servers and nothing spans them: use pipeline(), mset(), mget(), or put "
    "what belongs together into one value"
)
_SCRIPT: Final = (
    "a script or transaction runs on one server, and its copy would not have its effects: use a "
    "single redis server with a client of its own for that"
)
_STREAM: Final = (
    "messages and streams belong to one server, not to a key's two holders: use a redis server of "
    "its own, with redis-py"
)
_SCAN: Final = (
    "each server has a part of the keys, in two copies: keep an index of your own, or look with "
    "`mmapcache ring verify`"
)
_SERVER: Final = "it is for one server: use redis-py with the address from ring.nodes"
_OLD: Final = "it would read and write in one step, on two holders: use get() and then set()"


def _all(names: str, why: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


_WHY: Final[dict[str, str]] = {
    **_all("setnx msetnx lock renamenx hsetnx delex", _CONDITION),
    **_all("getset getdel getex", _OLD),
    **_all(
        "append setrange getrange substr setbit getbit bitcount bitfield bitpos bitop strlen "
        "incrbyfloat touch object "
        "hget hset hmget hmset hgetall hdel hexists hincrby hincrbyfloat hkeys hvals hlen "
        "hscan hscan_iter hstrlen hrandfield hexpire "
        "lpush rpush lpushx rpushx lpop rpop lrange lindex linsert llen lrem lset ltrim lpos "
        "lmove blmove blpop brpop rpoplpush brpoplpush lmpop blmpop "
        "sadd srem smembers sismember smismember scard spop srandmember smove sscan "
        "sscan_iter sdiff sdiffstore sinter sinterstore sintercard sunion sunionstore "
        "zadd zrem zrange zrevrange zrangebyscore zrevrangebyscore zrangebylex zrangestore "
        "zscore zmscore zrank zrevrank zcard zcount zincrby zpopmin zpopmax bzpopmin bzpopmax "
        "zremrangebyrank zremrangebyscore zremrangebylex zunion zunionstore zinter zinterstore "
        "zdiff zdiffstore zscan zscan_iter zrandmember "
        "geoadd geodist geohash geopos geosearch georadius pfadd pfcount pfmerge "
        "arcount ardel ardelrange arget argetrange argrep arinfo arinsert arlastitems arlen armget "
        "armset arnext arop arring arscan arseek arset bitfield_ro blmovem bzmpop digest "
        "digest_local georadiusbymember geosearchstore hexpireat hexpiretime hgetdel hgetex "
        "himport_set hpersist hpexpire hpexpireat hpexpiretime hpttl hsetex httl lcs lmovem "
        "sdiffcard sunioncard zintercard zlexcount zmpop zrevrangebylex "
        "json ft bf cf cms topk tdigest ts vset",
        _PARTS,
    ),
    **_all(
        "eval evalsha eval_ro fcall fcall_ro script_load register_script function_load "
        "transaction watch unwatch multi evalsha_ro script_debug script_exists script_flush "
        "script_kill function_delete function_dump function_flush function_kill function_list "
        "function_restore function_stats",
        _SCRIPT,
    ),
    **_all("rename copy sort sort_ro unlink move migrate dump restore", _SEVERAL),
    **_all(
        "publish subscribe psubscribe pubsub spublish monitor xadd xread xreadgroup xrange "
        "xrevrange xlen xack xdel xtrim xgroup_create xpending xclaim xautoclaim xinfo_stream "
        "wait waitaof pubsub_channels pubsub_numpat pubsub_numsub pubsub_shardchannels "
        "pubsub_shardnumsub keyspace_notifications xackdel xcfgset xdelex xgroup_createconsumer "
        "xgroup_delconsumer xgroup_destroy xgroup_setid xinfo_consumers xinfo_groups xnack "
        "xpending_range",
        _STREAM,
    ),
    **_all("keys scan scan_iter randomkey dbsize", _SCAN),
    **_all(
        "execute_command flushall flushdb swapdb select info config_get config_set client_list "
        "ping echo save bgsave shutdown time type slaveof replicaof",
        _SERVER,
    ),
    **_all(
        "pexpire expireat pexpireat expiretime pexpiretime",
        "times are given to set() as ex, px, exat or pxat, and changed with expire()",
    ),
    **_all("setex psetex", "use set() with ex or px, which says the same and more clearly"),
    "msetex": "use mset() with ex or px",
    # Of a pipeline: a client has these.
    **_all(
        "mget mset", "a pipeline's operations are of one key each: add a get() or set() for each"
    ),
    "increx": "use incr(), and expire() when the number is 1",
    "decrby": "use decr() with an amount, or incrby() with one below 0",
    "persist": "set() it again without a time",
}
# Arguments of redis-py's set() that a ring does not take.
SET_OPTIONS: Final = {
    "nx": _CONDITION,
    "xx": _CONDITION,
    "get": _OLD,
    "keepttl": "the older value's time may differ on the two holders: give ex, px, exat or pxat",
}


def refusal(name: str) -> Callable[..., NoReturn]:
    """What a client has in the place of a command that a ring does not do: it raises when called.

    :raises AttributeError: it is nothing that is known
    """
    why = _WHY.get(name.lower()) or _of_redis(name)
    if why is None:
        raise AttributeError(f"a ring has no {name!r}")

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise Unsupported(f"{name} is not for a ring: {why}")

    return refuse


def _of_redis(name: str) -> str | None:
    """Why not, of what else redis-py's client has: it is all about a server."""
    if name.startswith("_"):
        return None
    import redis.asyncio

    known = hasattr(redis.Redis, name) or hasattr(redis.asyncio.Redis, name)
    return _SERVER if known else None


def refuse_options(options: dict[str, object]) -> None:
    """
    :raises Unsupported: `set` was given what it does not take
    :raises TypeError: it was given what nobody knows
    """
    for name, value in options.items():
        if name not in SET_OPTIONS:
            raise TypeError(f"set() has no argument {name!r}")
        if value:
            raise Unsupported(f"set({name}=…) is not for a ring: {SET_OPTIONS[name]}")
