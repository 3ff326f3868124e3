/*
 * The loader's status: two slots, written in turn, so that a kill between two stores leaves one.
 *
 *      slot 0 [ seq | payload a | payload b | checksum ]     the reader takes the highest
 *      slot 1 [ seq | payload a | payload b | checksum ]     sequence whose checksum fits
 *
 * The checksum is taken to tell every mixture (it is a function of the three other words, and the
 * words of two reports never form a third). The memory is that of memory.pml: stores reach the
 * reader in any order that fences permit, and a kill leaves any permitted set of them.
 *
 * Properties (the asserts, by number):
 *   S1 what a reader or a loader takes from the slots is one report that was made, whole
 *   S2 a loader that opens the file finds the last finished report or a later one; where a kill
 *      may lose stores, the last but one
 *   S3 a reader that sees all stores of a loader at rest, killed or not, finds the last finished
 *      report or a later one
 *   S4 a reader that finds both slots torn looks again, after an acquire fence; it finds a report
 *      unless the loader has begun another one meanwhile
 */

#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef REPORTS
#define REPORTS 4
#endif
#ifndef KILLS
#define KILLS 2
#endif
#ifndef LOOKS
#define LOOKS 1                 /* of the reader; REPORTS of them are enough without kills (S4) */
#endif
#ifndef LOSSY
#define LOSSY 1
#endif
#define BUFFER 32
#define WORDS 4
#define AT(slot, word) (WORDS * (slot) + (word))
#define LOCATIONS (2 * WORDS)
#define CELL short

#include "memory.pml"

#if MUTANT == 51
#define WHOLE(q, a, b, c) true
#else
#define WHOLE(q, a, b, c) (c == CHECKSUM(q, a, b))
#endif
#define CHECKSUM(q, a, b) (256 * (q) + 16 * (a) + (b))

byte j, t, drop, need;

/* ------------------------------------------------------------------ loader */

byte kills = KILLS;
bit resting;                    /* the loader has ended or was killed */
byte q;                         /* sequence of the last report */
byte stamp;                     /* every attempt has its own payload */
byte made[REPORTS + KILLS + 1]; /* the sequence of each stamp */
byte finished, earlier;         /* the stamps of the last two reports with all their stores done */
bit slot;
short w0, w1, w2, w3;
byte best, taken;               /* sequence + 1 (0: none) and stamp of the best slot */

#define STEP(op) atomic { if :: kills > 0 -> goto killed :: true -> op fi }

/* Take a slot's words; best = its sequence if it is whole and the higher. */
inline judge()
{
    if
    :: WHOLE(w0, w1, w2, w3) && w0 + 1 > best ->
        best = w0 + 1;
        taken = w1;
        assert(w1 == w2 && made[w1] == w0 && w1 <= stamp)                       /* S1 */
    :: else
    fi;
    w0 = 0; w1 = 0; w2 = 0; w3 = 0
}

inline recover()
{
    best = 0;
    newest(AT(0, 0), w0); newest(AT(0, 1), w1); newest(AT(0, 2), w2); newest(AT(0, 3), w3);
    judge();
    newest(AT(1, 0), w0); newest(AT(1, 1), w1); newest(AT(1, 2), w2); newest(AT(1, 3), w3);
    judge();
    assert(best > 0 && taken >= (LOSSY -> earlier : finished));                 /* S2 */
    finished = taken;
    earlier = taken;
#if MUTANT == 55
    q = 0;                                      /* counts anew */
#else
    q = best - 1;
#endif
    slot = 0;
    best = 0; taken = 0
}

active proctype loader()
{
report:
    if
    :: stamp == REPORTS + KILLS - kills -> STEP(goto rest)
    :: else
    fi;
    atomic {
        stamp++;
        made[stamp] = q + 1;
#if MUTANT == 52
        slot = 0;                               /* always the same slot */
#elif MUTANT == 53
        slot = 1 - slot;                        /* in turn, but anew after a restart */
#else
        slot = (q + 1) % 2;
#endif
#if MUTANT != 54
        release_fence()         /* the other slot is whole before this one is torn */
#endif
    }
    STEP(store(AT(slot, 0), q + 1));
    STEP(store(AT(slot, 1), stamp));
    STEP(store(AT(slot, 2), stamp));
    STEP(store(AT(slot, 3), CHECKSUM(q + 1, stamp, stamp)));
    atomic {                                    /* a kill may still undo this report */
        q++;
        earlier = finished;
        finished = stamp;
        sure = MINUS(n, WORDS)
    }
    goto report;

killed:
    resting = 1;
    atomic { kills--; lose(); d_step { recover(); resting = 0 } }
    goto report;
rest:
    resting = 1
}

/* ------------------------------------------------------------------ reader */

active proctype reader()
{
    byte looks = LOOKS;
    bit late;
again:
    atomic {
        looks--;
        if
        :: resting -> late = 1; drop = n; drain(drop); drop = 0         /* all has arrived */
        :: true
        fi;
        load(AT(0, 0), w0); load(AT(0, 1), w1); load(AT(0, 2), w2); load(AT(0, 3), w3);
        judge();
        load(AT(1, 0), w0); load(AT(1, 1), w1); load(AT(1, 2), w2); load(AT(1, 3), w3);
        judge();
        assert(!late || (best > 0 && taken >= finished));                       /* S3 */
        acquire_fence();
        late = 0;
        if
        :: best > 0 -> best = 0; taken = 0
        :: else ->
            assert(looks > 0 || LOOKS < REPORTS || KILLS > 0);                  /* S4 */
#if MUTANT == 56
            assert(looks > LOOKS);                              /* S4: it gives up */
#endif
            if
            :: looks > 0 -> goto again
            :: else
            fi
        fi
    }
}
