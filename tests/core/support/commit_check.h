/* commit_check.h - in debug builds, every commit of a core test is followed by a check of all that
 * it left: the table as `check` sees it, and the allocator's own structure.
 *
 * The linker puts this between whoever commits and mc_batch_commit. After a check that went over n
 * entries the next n / 64 commits go unchecked, so that a test with a large cache and thousands of
 * commits takes little longer.
 */
#ifndef MMAPCACHE_TEST_COMMIT_CHECK_H
#define MMAPCACHE_TEST_COMMIT_CHECK_H

#include <stdbool.h>

extern bool commit_check_off; /* for commits to files that are damaged on purpose */

#endif
