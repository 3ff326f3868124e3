/*
 * The memory between one loader and one reader, as weak as C11 allows.
 *
 *      loader ──► [ 1 | 2 | 3 | ... | n ]  ──►  mem[]  ──► reader
 *                   store buffer, in             what the reader
 *                   program order                must see by now
 *
 * Every store of the loader enters the buffer. A load of the reader may return mem[] or *any*
 * store to that location that is still in the buffer: older ones may stay hidden as long as the
 * reader likes, newer ones may arrive first. So the buffer drains in any order, differently for
 * each location, and a load may be satisfied early or late. We do not even keep two loads of one
 * location in order (coherence); the protocol must not need it.
 *
 * Only two things constrain this, exactly as C11 says for one writing thread:
 *   - each store carries `rel`: everything up to there is visible to whoever synchronises with it.
 *     A release store carries itself and everything before it; a plain or relaxed store carries
 *     what came before the loader's last release fence.
 *   - a reader that takes a store from the buffer by an acquire load, or by a plain load followed
 *     by an acquire fence, synchronises with it: the buffer's first `rel` stores drain into mem[].
 *
 * TSO=1 makes it the memory of x86: every store carries itself and every load synchronises.
 *
 * A kill (see `lose`) leaves any set of stores that a compiler and a CPU could have let out by
 * then: a kept store keeps all that it carries, and what the reader has seen is kept. The
 * program-order prefix that SIGKILL leaves on hardware is one of these sets. What is left
 * reaches the next loader at once and the reader whenever it likes.
 *
 * The includer defines BUFFER, LOCATIONS, LOSSY and the registers j, t, drop, need, which are 0
 * between steps. The lines printed with '@' are what run.py shows of a trail.
 *
 * Invariants: rel[t] <= t <= n; pending <= n; sure <= n; cells above n are 0.
 */

#ifndef TSO
#define TSO 0
#endif
#ifndef CELL
#define CELL byte
#endif

CELL mem[LOCATIONS];
byte n;                         /* stores in the buffer, 1..n */
byte where[BUFFER];             /* location */
CELL value[BUFFER];
byte rel[BUFFER];               /* this many stores of the buffer are visible with it */
bit  seen[BUFFER];              /* the reader has it: a kill cannot undo it */
byte fenced;                    /* loader: stores before its last release fence */
byte sure;                      /* stores that outlived a kill */
byte pending;                   /* reader: what an acquire fence would make visible */

#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define MINUS(a, b) ((a) > (b) -> (a) - (b) : 0)

/* --- loader --- */

inline append(l, v, r)
{
    d_step {
        n++;
        assert(n < BUFFER);
        where[n] = l;
        value[n] = v;
        rel[n] = r;
        printf("@ store %d %d\n", l, v)
    }
}

#if TSO
#define store(l, v) append(l, v, n)
#else
#define store(l, v) append(l, v, fenced)
#endif
#define store_release(l, v) append(l, v, n)     /* n was just incremented: carries itself */
#define release_fence() fenced = n

/* What a loader reads at open: kernel calls (flock) lie between it and the dead one. */
inline newest(l, x)
{
    x = mem[l];
    j = 1;
    do
    :: j > n -> break
    :: else ->
        if
        :: where[j] == l -> x = value[j]
        :: else
        fi;
        j++
    od;
    j = 0
}

/* Remove store t from the buffer. No kept store above t carries it, so no `rel` changes. */
inline forget(t)
{
    j = t;
    do
    :: j == n -> break
    :: else ->
        where[j] = where[j + 1];
        value[j] = value[j + 1];
        rel[j] = rel[j + 1];
        seen[j] = seen[j + 1];
        j++
    od;
    where[n] = 0; value[n] = 0; rel[n] = 0; seen[n] = 0;
    n--;
    j = 0
}

/* SIGKILL: from the youngest store down, each is lost or kept, as far as both are possible. */
inline lose()
{
    printf("@ kill\n");
    need = pending;
    t = n;
    do
    :: t <= sure || t <= need -> break
    :: else ->
        if
        :: LOSSY && !seen[t] -> printf("@ lost %d %d\n", where[t], value[t]); forget(t)
        :: need = MAX(need, rel[t])
        fi;
        t--
    od;
    t = 0;
    need = 0;
    sure = n;
    fenced = 0                  /* the next loader has fenced nothing yet */
}

/* --- reader --- */

/* The first p stores become visible: into mem[], and out of the buffer. */
inline drain(p)
{
    j = 1;
    do
    :: j > p -> break
    :: else -> mem[where[j]] = value[j]; j++
    od;
    j = 1;
    do
    :: j > n -> break
    :: j <= n && j + p <= n ->
        where[j] = where[j + p];
        value[j] = value[j + p];
        rel[j] = MINUS(rel[j + p], p);
        seen[j] = seen[j + p];
        j++
    :: else ->
        where[j] = 0; value[j] = 0; rel[j] = 0; seen[j] = 0;
        j++
    od;
    n = n - p;
    fenced = MINUS(fenced, p);
    sure = MINUS(sure, p);
    pending = MINUS(pending, p);
    j = 0
}

/* Choose what a load of l returns: t = a store of the buffer, or 0 for mem[]. */
inline choose(l)
{
    t = n;
    do
    :: t == 0 -> break
    :: t > 0 && where[t] == l -> seen[t] = 1; break
    :: t > 0 -> t--
    od;
    skip
}

#if TSO
#define load(l, x) load_acquire(l, x)
#else
inline load(l, x)
{
    choose(l);
    d_step {
        if
        :: t == 0 -> x = mem[l]
        :: else -> x = value[t]; pending = MAX(pending, rel[t])
        fi;
        printf("@ load %d %d\n", l, x);
        t = 0
    }
}
#endif

inline load_acquire(l, x)
{
    choose(l);
    d_step {
        if
        :: t == 0 -> x = mem[l]
        :: else -> x = value[t]; drop = rel[t]; drain(drop); drop = 0
        fi;
        printf("@ load %d %d\n", l, x);
        t = 0
    }
}

inline acquire_fence()
{
    d_step { drop = pending; drain(drop); drop = 0 }
}
