/*
 * Generations and a reclaim horizon: one loader that may be killed at every store, one reader
 * that may be arbitrarily late. See docs/proof.md for the idea and the bounds.
 *
 *      commit ─► g     root[g mod R] ─► page block ─► entry block of key 0
 *      horizon ─► h        state word            └──► entry block of key 1
 *
 * Loader: new blocks, then the root, then `commit` (release). A block retired by commit G, or the
 * root slot of generation G-1, is reused only after `horizon` >= G and a release fence.
 * Reader: acquire `commit`, copy everything, acquire fence, load `horizon`: valid iff h <= g.
 *
 * Properties (the asserts, by number):
 *   P1 a validated answer is wholly the content of its generation (both keys and the state)
 *   P2 the commit that one reader observes never goes back
 *   P3 a failed validation is followed by a generation that the horizon found allows: so the
 *      loader must raise the horizon once for each retry, and a loader at rest costs none
 *   P4 a restart finds the last commit that anyone saw, whole (nothing lost)
 *   P5 nothing that the current commit reaches is ever overwritten
 *   P6 the horizon never exceeds the commit, at no point of a kill
 *
 * Reader 1 gets (and retries), 2 is a snapshot that holds its generation and root, 3 has a front
 * cache that keeps a value while (offset, birth) stay the same.
 */

#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef READER
#define READER 1
#endif
#ifndef RING
#define RING 3                  /* root slots */
#endif
#ifndef BLOCKS
#define BLOCKS 6                /* at most 7: a page holds two 3-bit block numbers */
#endif
#ifndef COMMITS
#define COMMITS 4
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef ABORTS
#define ABORTS 0
#endif
#ifndef LOSSY
#define LOSSY 1                 /* 0: a kill leaves the program-order prefix only */
#endif
#ifndef READS
#define READS 2                 /* answers that the reader takes */
#endif
#ifndef TRIES
#define TRIES 3                 /* attempts for all its answers together, before it gives up */
#endif
#ifndef FEW_KINDS
#define FEW_KINDS 0             /* 1: a batch changes one key only */
#endif
#ifndef ANY_BLOCK
#define ANY_BLOCK 0             /* 1: allocate any free block; 0: the one retired last */
#endif
#ifndef BUFFER
#define BUFFER 48
#endif

#define COMMIT 0
#define HORIZON 1
#define ROOT(g) (2 + 2 * ((g) % RING))          /* the root's page word; its state word follows */
#define BLOCK(b) (1 + 2 * RING + (b))           /* blocks are 1..BLOCKS */
#define LOCATIONS (2 + 2 * RING + BLOCKS)

/* A page and an entry are one word each; either can be misread as the other. */
#define PAGE(a, b) (128 + 8 * (a) + (b))
#define PAGE_0(w) (((w) >> 3) & 7)
#define PAGE_1(w) ((w) & 7)
#define ENTRY(stamp) (64 + (stamp))
#define ABSENT 0
#define GARBAGE 255

#include "memory.pml"

/* What each generation contains, and which generation wrote a stamp (the entry's birth). */
byte truth_0[COMMITS + 1], truth_1[COMMITS + 1], truth_s[COMMITS + 1];
byte birth[COMMITS + 2 * KILLS + ABORTS + 2];

bit resting;                    /* the loader has ended, or was killed */
bit ready;                      /* generation 0 exists */
byte witnessed;                 /* the highest generation that the reader has seen */
byte done_commit;               /* the highest commit stored (not: seen) */

/* the reader's registers */
byte rg, rp, rs, rw, r0, r1, k0, k1, rh;
byte must;                      /* the next generation is at least this: P2, P3 */
byte reads = READS, tries = TRIES;

/* helper registers; 0 between steps */
byte j, t, drop, need;

/*
 * With STEPPED=1 the reader and the loader interleave between any two loads and stores. That adds
 * no outcome: a load may return any store however old, so an attempt made at the very end in one
 * go can return all that a slow or an early one did. Only a kill makes stores vanish, unless the
 * reader has seen them. So the deep configurations run a batch and an attempt in one go each, and
 * let the reader act when the loader is at rest for good or between a kill and what it loses; in
 * the second case the run ends with the restart's checks. The stepped configurations, smaller,
 * do not rely on this argument.
 */
#if STEPPED
#define BATCH
#define ATTEMPT
#define READER_MAY_ACT true
#else
#define BATCH atomic
#define ATTEMPT atomic
#define READER_MAY_ACT resting
#endif

/* ------------------------------------------------------------------ loader */

byte kills = KILLS, aborts = ABORTS;
byte g, h;                      /* its idea of commit and horizon */
byte stamp = 1;                 /* tells every batch from every other, published or not */
byte page, e0, e1;              /* blocks of the current generation; e = 0: key absent */
byte new_page, new_0, new_1;
byte kind, up, i, count;
byte free_at[BLOCKS + 1];       /* LIVE, or the commit that retired it: reuse once h >= that */
#define LIVE 200

#if MUTANT == 3 || MUTANT == 4
#define ANNOUNCED(b, up) true
#elif MUTANT == 10
#define ANNOUNCED(b, up) (free_at[b] <= (up) + 1)
#else
#define ANNOUNCED(b, up) (free_at[b] <= (up))
#endif
#define REUSABLE(b, up) (free_at[b] != LIVE && ANNOUNCED(b, up))

#if MUTANT == 3 || MUTANT == 4 || MUTANT == 8
#define SLOT_FREE(up) true
#elif MUTANT == 19
#define SLOT_FREE(up) ((up) + RING + 1 >= g + 2)
#else
#define SLOT_FREE(up) ((up) + RING >= g + 2)    /* h >= old + 1, where old = g + 1 - RING */
#endif

#if MUTANT == 27
#define HIGHEST (g + 1)
#else
#define HIGHEST g
#endif

/* Choose a horizon from h to the commit that makes `blocks` blocks and the next slot reusable. */
inline choose_horizon(blocks, slot)
{
    up = h;
    do
    :: up < HIGHEST && MUTANT != 3 && MUTANT != 4 -> up++
    :: true ->
        d_step {
            count = 0;
            i = 1;
            do
            :: i > BLOCKS -> break
            :: else -> count = count + (REUSABLE(i, up) -> 1 : 0); i++
            od;
            i = 0
        }
        if
        :: count >= blocks && (!slot || SLOT_FREE(up)) -> break
        :: else -> up < HIGHEST -> up++
        fi
    od;
    count = 0
}

/* The fence orders the horizon before all that is written from here on. */
#if MUTANT == 5
#define raise() store_release(HORIZON, up)
#elif MUTANT == 16
#define raise() release_fence(); store(HORIZON, up)
#elif MUTANT == 17
#define raise() store(HORIZON, up); release_fence()
#else
#define raise() store_release(HORIZON, up); release_fence()
#endif

inline allocate(b)
{
    b = 0;
    i = 1;
    do
    :: i > BLOCKS -> break
    :: i <= BLOCKS && !REUSABLE(i, h) -> i++
    :: i <= BLOCKS && REUSABLE(i, h) && (b == 0 || ANY_BLOCK || free_at[i] > free_at[b]) ->
        b = i; i++
    :: i <= BLOCKS && REUSABLE(i, h) && b != 0 && (ANY_BLOCK || free_at[i] <= free_at[b]) -> i++
    od;
    i = 0;
    assert(b != 0 && b != page && b != e0 && b != e1);                          /* P5 */
    free_at[b] = LIVE
}

inline retire(b)
{
    if
    :: b != 0 -> free_at[b] = g
    :: else
    fi
}

inline publish()
{
    sure = n;                   /* a kill may still undo the commit, and what follows */
#if MUTANT == 6
    store(COMMIT, g + 1);
#else
    store_release(COMMIT, g + 1);
#endif
    d_step {
        g++;
        done_commit = g;
        retire(page);
#if MUTANT == 29
        retire(e0);
#endif
        if :: new_0 != e0 -> retire(e0) :: else fi;
        if :: new_1 != e1 -> retire(e1) :: else fi;
        page = new_page; e0 = new_0; e1 = new_1;
        new_page = 0; new_0 = 0; new_1 = 0; kind = 0
    }
}

inline free_at_open()
{
    i = 1;
    do
    :: i > BLOCKS -> break
#if MUTANT == 14
    :: else -> free_at[i] = 0; i++
#else
    :: else -> free_at[i] = g; i++
#endif
    od;
    i = 0
}

#define PUT_BOTH 1
#define PUT_1 2
#define DELETE_0 3
#define PUT_0 4

/* What the generation will be, before any reader can see it. */
inline expect()
{
    truth_0[g + 1] = (kind == DELETE_0 -> ABSENT : (kind == PUT_1 -> truth_0[g] : ENTRY(stamp)));
    truth_1[g + 1] = (kind == PUT_BOTH || kind == PUT_1 -> ENTRY(stamp) : truth_1[g]);
    truth_s[g + 1] = stamp
}

/* Open: everything that root g reaches is live, the rest is free. */
inline recover()
{
    newest(COMMIT, g);
    newest(HORIZON, h);
    printf("@ open %d %d\n", g, h);
    assert(h <= g);                                                             /* P6 */
    assert(g >= witnessed && (LOSSY || g == done_commit));                      /* P4 */
    newest(ROOT(g), page);
    newest(ROOT(g) + 1, count);
    assert(page >= 1 && page <= BLOCKS && count == truth_s[g]);                 /* P4 */
    newest(BLOCK(page), kind);
    e0 = PAGE_0(kind);
    e1 = PAGE_1(kind);
    assert(e0 <= BLOCKS && e1 >= 1 && e1 <= BLOCKS);                            /* P4 */
    count = 0;
    if :: e0 != 0 -> newest(BLOCK(e0), count) :: else fi;
    assert(count == truth_0[g]);                                                /* P4 */
    newest(BLOCK(e1), count);
    assert(count == truth_1[g]);                                                /* P4 */
#if MUTANT == 15
    if
    :: g > 0 -> newest(ROOT(g - 1), count); newest(BLOCK(count), kind);
    :: else -> count = page
    fi;
    free_at_open();
    free_at[count] = LIVE; free_at[PAGE_0(kind)] = LIVE; free_at[PAGE_1(kind)] = LIVE;
#else
    free_at_open();
    free_at[page] = LIVE; free_at[e0] = LIVE; free_at[e1] = LIVE;
#endif
    new_page = 0; new_0 = 0; new_1 = 0; kind = 0; count = 0; up = g
}

/* A kill comes before any store, or never. */
#define STEP(op) atomic { if :: kills > 0 -> goto killed :: true -> op fi }

active proctype loader()
{
    d_step {                                    /* generation 0: page 1, entries 2 and 3 */
        page = 1; e0 = 2; e1 = 3;
        free_at[0] = LIVE; free_at[1] = LIVE; free_at[2] = LIVE; free_at[3] = LIVE;
        mem[ROOT(0)] = 1; mem[ROOT(0) + 1] = stamp;
        mem[BLOCK(1)] = PAGE(2, 3); mem[BLOCK(2)] = ENTRY(stamp); mem[BLOCK(3)] = ENTRY(stamp);
        truth_0[0] = ENTRY(stamp); truth_1[0] = ENTRY(stamp); truth_s[0] = stamp;
        ready = 1
    }
batch:
    BATCH {
        if
        :: g == COMMITS -> STEP(goto rest)
        :: else
        fi;
        atomic {
            if
            :: !FEW_KINDS -> kind = PUT_BOTH; count = 3
            :: kind = PUT_1; count = 2
            :: e0 != 0 -> kind = DELETE_0; count = 1
            :: e0 == 0 -> kind = PUT_0; count = 2
            fi;
            stamp++;
            birth[stamp] = g + 1;
            new_0 = count;
            choose_horizon(new_0, false);
            new_0 = 0
        }
        if
        :: up > h -> STEP(raise(); h = up; up = 0)
        :: else -> up = 0
        fi;
        if
        :: kind == PUT_BOTH || kind == PUT_0 ->
            STEP(allocate(new_0); store(BLOCK(new_0), ENTRY(stamp)))
        :: kind == PUT_1 -> new_0 = e0
        :: kind == DELETE_0 -> new_0 = 0
        fi;
#if MUTANT == 22
        free_at[page] = 0; page = 0;                /* the batch reuses what it retires itself */
#endif
        if
        :: kind == PUT_BOTH || kind == PUT_1 ->
            STEP(allocate(new_1); store(BLOCK(new_1), ENTRY(stamp)))
        :: else -> new_1 = e1
        fi;
        STEP(allocate(new_page); store(BLOCK(new_page), PAGE(new_0, new_1)));
        if
        :: aborts > 0 -> atomic {                   /* the batch fails: its blocks are free again */
                aborts--;
                free_at[new_page] = 0;
                if :: new_0 != e0 && new_0 != 0 -> free_at[new_0] = 0 :: else fi;
                if :: new_1 != e1 -> free_at[new_1] = 0 :: else fi;
                new_page = 0; new_0 = 0; new_1 = 0; kind = 0;
                goto batch
            }
        :: true
        fi;
#if MUTANT == 4
        if
        :: g > h -> STEP(store_release(HORIZON, g); release_fence(); h = g)
        :: else
        fi;
#endif
        atomic { choose_horizon(0, true) }
        if
        :: up > h -> STEP(raise(); h = up; up = 0)
        :: else -> up = 0
        fi;
        atomic { expect() }
#if MUTANT == 7
        STEP(store_release(COMMIT, g + 1));
#endif
#if MUTANT == 9
        STEP(store(ROOT(g), new_page));
        STEP(store(ROOT(g) + 1, stamp));
#else
        STEP(store(ROOT(g + 1), new_page));
        STEP(store(ROOT(g + 1) + 1, stamp));
#endif
        STEP(publish());
    }
    goto batch;

killed:
    resting = 1;
    BATCH {
        atomic { kills--; lose(); d_step { recover(); resting = 0 } }
#if !STEPPED
        if
        :: tries < TRIES -> goto rest
        :: else
        fi;
#endif
        if
#if MUTANT != 14
        :: up > h -> STEP(raise(); h = up; up = 0)
#endif
#if MUTANT == 18
        :: else -> up = 0
#else
        :: else -> up = 0; release_fence()
#endif
        fi;
    }
    goto batch;
rest:
    resting = 1
}

/* ------------------------------------------------------------------ reader */

#if MUTANT == 20
#define load_commit(x) load(COMMIT, x)
#else
#define load_commit(x) load_acquire(COMMIT, x)
#endif
#if MUTANT == 13
#define validation_fence() skip
#else
#define validation_fence() acquire_fence()
#endif
#if MUTANT == 21
#define VALID (rh <= rg + 1)
#elif MUTANT == 1
#define VALID true
#else
#define VALID (rh <= rg)
#endif

/* An offset is checked before it is followed; 0 in a page means absent. */
inline load_entry(r, k)
{
    if
    :: r == 0 -> k = ABSENT
    :: r > BLOCKS -> k = GARBAGE
    :: r >= 1 && r <= BLOCKS -> load(BLOCK(r), k)
    fi
}

/*
 * The front cache keeps a decoded value while the entry's place and birth are the same. Then it
 * reads of an entry only its birth. Birth and value are two loads, so a tear shows.
 */
#if READER == 3
byte b0, b1;                    /* births */
byte f_r0, f_r1, f_b0, f_b1, f_k0, f_k1;        /* the last valid answer */

#if MUTANT == 25
#define SAME(r, b, f_r, f_b) (r != 0 && r == f_r)
#else
#define SAME(r, b, f_r, f_b) (r != 0 && r == f_r && b == f_b)
#endif

inline load_birth(r, b)
{
    load_entry(r, b);
    b = (b > ENTRY(0) && b <= ENTRY(stamp) -> birth[b - ENTRY(0)] : GARBAGE)
}

inline keep_front()
{
    d_step { f_r0 = r0; f_r1 = r1; f_b0 = b0; f_b1 = b1; f_k0 = k0; f_k1 = k1 }
}
#endif

inline check_answer()
{
    assert(k0 == truth_0[rg] && k1 == truth_1[rg] && rs == truth_s[rg])         /* P1 */
}

inline clear_answer()
{
#if READER == 3
    b0 = 0; b1 = 0;
#endif
    rw = 0; r0 = 0; r1 = 0; k0 = 0; k1 = 0; rh = 0
}

inline validate()
{
    atomic { validation_fence(); load(HORIZON, rh) }
}

#if MUTANT == 23
#define SLOT_SHIFT 1
#else
#define SLOT_SHIFT 0
#endif

inline copy_root()
{
    atomic { load(ROOT(rg + SLOT_SHIFT), rp) }
    atomic { load(ROOT(rg + SLOT_SHIFT) + 1, rs) }
}
inline copy_blocks()
{
    atomic {
        if
        :: rp >= 1 && rp <= BLOCKS -> load(BLOCK(rp), rw)
        :: else -> rw = GARBAGE
        fi
    }
#if MUTANT == 28
    assert(rw >= PAGE(0, 0));                   /* else the reader raises CorruptError: P1 */
#endif
    r0 = PAGE_0(rw); r1 = PAGE_1(rw); rw = 0;
#if READER == 3
    atomic { load_birth(r0, b0) }
    atomic { load_birth(r1, b1) }
    if
    :: SAME(r0, b0, f_r0, f_b0) -> k0 = f_k0
    :: else -> atomic { load_entry(r0, k0) }
    fi;
    if
    :: SAME(r1, b1, f_r1, f_b1) -> k1 = f_k1
    :: else -> atomic { load_entry(r1, k1) }
    fi;
#if MUTANT == 26
    keep_front();
#endif
#else
    atomic { load_entry(r0, k0) }
    atomic { load_entry(r1, k1) }
#endif
}

active proctype reader()
{
    ready == 1;
again:
    READER_MAY_ACT;
    ATTEMPT {
        if
        :: reads == 0 || tries == 0 -> goto finished
        :: else -> tries--
        fi;
        atomic {
            load_commit(rg);
            assert(rg >= must);                                                 /* P2, P3 */
            must = rg;
            witnessed = rg
        }
#if MUTANT == 2
        validate();
#endif
        copy_root();
#if READER == 2
        validate();
        if
        :: VALID -> rh = 0
        :: else -> goto retry
        fi;
    }
later:
    READER_MAY_ACT;
    ATTEMPT {
#endif
        copy_blocks();
#if MUTANT == 11
        if
        :: k0 == ABSENT -> assert(truth_0[rg] == ABSENT)                        /* P1 */
        :: else
        fi;
#endif
#if MUTANT != 2 && !(MUTANT == 12 && READER == 2)
        validate();
#endif
        if
        :: VALID -> printf("@ valid %d\n", rg); check_answer()
        :: else -> printf("@ invalid %d\n", rg); goto retry
        fi;
        reads--;
#if READER == 3
        keep_front();
#endif
        clear_answer()
    }
#if READER == 2
    if
    :: reads > 0 -> goto later                  /* the same generation, as late as it likes */
    :: else -> goto finished
    fi;
#endif
    d_step { rg = 0; rp = 0; rs = 0 }
    goto again;
retry:
    ATTEMPT {
        must = MAX(must, rh);
#if MUTANT != 24
        acquire_fence();
#endif
        clear_answer();
        rg = 0; rp = 0; rs = 0
    }
    goto again;
finished:
    skip
}
