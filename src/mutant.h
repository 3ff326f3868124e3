/* mutant.h - deliberate faults, so that a test run can prove that the tests see them.
 *
 * A place that could go wrong asks MC_MUTANT_IS(n). In every ordinary build that is the constant 0
 * and the fault does not exist in the object code; built with -DMC_MUTANT=n exactly that one fault
 * is in, and at least one test must fail. Numbers, each of one file alone: buddy.c 100-199,
 * table_write.c, table_move.c and hash.c 200-299, store.c, slots.c, counts.c, change_log.c and
 * history.c 300-399, bson.c, bson_validate.c and key.c 400-499, arena.c, region.c, system_linux.c,
 * lock.c, bell.c and os.c 500-599, check.c and src/writer/ 600-699, the binding (tests/threads)
 * 700-799.
 */
#ifndef MMAPCACHE_MUTANT_H
#define MMAPCACHE_MUTANT_H

#ifdef MC_MUTANT
#define MC_MUTANT_IS(n) (MC_MUTANT == (n))
#else
#define MC_MUTANT_IS(n) 0
#endif

#endif
