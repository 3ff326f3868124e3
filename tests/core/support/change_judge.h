/* change_judge.h - whether the change log explains how one oracle became another. */
#ifndef MMAPCACHE_TEST_CHANGE_JUDGE_H
#define MMAPCACHE_TEST_CHANGE_JUDGE_H

#include "change_log.h"
#include "store_support.h"

/* What was said, since the first judgement. */
struct change_tally {
    long keys, collections, alls, unknown, expired;
};

extern struct change_tally change_tally;

/* Reads the changes from generation `since`, which was as `from`, to the view's, which is as `to`.
 * Whatever differs has to be among them, and of each key the last is what it is now. MC_OK,
 * MC_ABSENT, MC_EXPIRED; any other is a failure. Keys of other collections count for nothing. */
enum mc_status judge_changes(const struct mc_view *view, uint64_t since, const struct oracle *from,
                             const struct oracle *to);

#endif
