/*
 * The change log: a ring of groups, written over from the oldest on.
 *
 *      slot 0 [ group of position 0, 3, 6 ... ]        written    how far the loader may have come
 *      slot 1 [ group of position 1, 4, 7 ... ]        root g     where the log of g ends
 *      slot 2 [ group of position 2, 5, 8 ... ]        commit     g
 *
 * Each commit has one group, which is one word: its stamp. A reader of generation g copies the
 * group of some position before the end that its root names, and then looks whether the loader has
 * announced to come round to it. Of several groups that a reader copies at once, the oldest decides
 * for all, so one is enough. The memory is that of memory.pml. Roots are not written over here:
 * protocol.pml is about that.
 *
 * Properties (the asserts, by number):
 *   L1 a valid copy is the group that the commit of that position logged
 *   L2 a reader that sees all stores of a loader at rest, killed or not, has all groups of the last
 *      ring but one
 *   L3 whatever a kill leaves, what was announced is not before the log's end; and not more than a
 *      group behind it, where a kill loses nothing
 */

#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef COMMITS
#define COMMITS 4
#endif
#ifndef RING
#define RING 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef LOSSY
#define LOSSY 1
#endif
/* Where a kill may lose a commit and keep what was announced after it, more may be out of reach. */
#define MAY_LOSE (LOSSY && KILLS > 0)
#define BUFFER 32
#define COMMIT 0
#define WRITTEN 1
#define ROOT(g) (2 + (g))
#define SLOT(p) (3 + COMMITS + (p) % RING)
#define LOCATIONS (3 + COMMITS + RING)

#include "memory.pml"

byte j, t, drop, need;

byte truth[COMMITS + 1];        /* the stamp of the group at each position */

/* ------------------------------------------------------------------ loader */

byte kills = KILLS;
bit resting;                    /* the loader has ended or was killed */
byte g, e, w;                   /* generation, end of the log, what was announced */
byte stamp;                     /* every attempt has its own */

#define STEP(op) atomic { if :: kills > 0 -> goto killed :: true -> op fi }

inline recover()
{
    newest(COMMIT, g);
    newest(ROOT(g), e);
    newest(WRITTEN, w);
    assert(w >= e && (LOSSY || w <= e + 1))                                     /* L3 */
}

inline announce()
{
    if
    :: w <= e -> w = e + 1; store(WRITTEN, w)
    :: else                                     /* a killed loader has done so */
    fi
}

active proctype loader()
{
    bit stands;
commit:
    if
    :: g == COMMITS -> STEP(goto rest)
    :: else
    fi;
    atomic { stamp++; truth[e] = stamp; stands = (w > e) }
#if MUTANT == 61
    STEP(store(SLOT(e), stamp));                /* announced when it has been written */
    STEP(announce(); release_fence());
#else
    STEP(announce());
#if MUTANT == 62
    STEP(store(SLOT(e), stamp));                /* no fence */
#elif MUTANT == 64
    STEP(if :: stands :: else -> release_fence() fi; store(SLOT(e), stamp));
#elif MUTANT == 68
    STEP(release_fence());                      /* the group comes last, below */
#else
    STEP(release_fence(); store(SLOT(e), stamp));
#endif
#endif
    STEP(store(ROOT(g + 1), e + 1));
    STEP(store_release(COMMIT, g + 1));
#if MUTANT == 68
    STEP(store(SLOT(e), stamp));
#endif
    atomic { g++; e++; stands = 0 }
    goto commit;

killed:
    resting = 1;
    atomic { kills--; stands = 0; lose(); d_step { recover(); resting = 0 } }
    goto commit;
rest:
    resting = 1
}

/* ------------------------------------------------------------------ reader */

#if MUTANT == 66
#define REACH (RING + 1)
#else
#define REACH RING
#endif

active proctype reader()
{
    byte rg, end, p, got, announced;
    bit settled, valid;
    atomic {
        if
        :: resting -> settled = 1; drop = n; drain(drop); drop = 0      /* all has arrived */
        :: true
        fi;
        load_acquire(COMMIT, rg);
        load(ROOT(rg), end);
        assert(end == rg);
        p = end;
        do
        :: p > 0 && end - p < RING -> p--
        :: p < end -> break
        :: end == 0 -> goto done
        od;
#if MUTANT == 65
        acquire_fence();
        load(WRITTEN, announced);
        load(SLOT(p), got);
#else
        load(SLOT(p), got);
#if MUTANT != 63
        acquire_fence();
#endif
        load(WRITTEN, announced);
#endif
        valid = (announced - p <= REACH);
#if MUTANT == 67
        valid = 1;
#endif
        if
        :: valid -> printf("@ kept\n")
        :: else -> printf("@ overwritten\n")
        fi;
        assert(!valid || got == truth[p]);                                      /* L1 */
        assert(!settled || MAY_LOSE || p + RING <= end || valid)                /* L2 */
done:
        skip
    }
}
