/* commit_check.c - see commit_check.h. The linker calls __wrap_x for x, and x for __real_x. */
#include "commit_check.h"

#include "check.h"
#include "faults.h"
#include "harness.h"
#include "shm.h"
#include "writer/batch.h"
#include "writer/writer_state.h"

#define ENTRIES_PER_COMMIT 64u

bool commit_check_off;

#ifdef MC_DEBUG
static _Thread_local uint64_t unchecked; /* commits until the next check */

static void check_all(const struct mc_writer *writer)
{
    struct mc_check_report report;
    struct mc_error error;
    struct mc_view view;
    mc_writer_view(writer, &view);
    if (mc_check(&view, &report, &error) != MC_OK) {
        test_failed(__FILE__, __LINE__, "after a commit: %s", error.text);
    }
    CHECK_EQ(mc_buddy_check(writer->arena.buddy), MC_OK);
    unchecked = report.entries / ENTRIES_PER_COMMIT;
}

static void check_commit(const struct mc_writer *writer)
{
    if (unchecked > 0) {
        unchecked--;
    } else if (!commit_check_off) {
        void (*hook)(enum shm_access access, const void *address, size_t len) = mc_shm_hook;
        mc_shm_hook = NULL;
        faults_pause(true);
        check_all(writer);
        faults_pause(false);
        mc_shm_hook = hook;
    }
}
#else
static void check_commit(const struct mc_writer *writer)
{
    (void)writer; /* the tests have to see by themselves what is wrong */
}
#endif

enum mc_status __real_mc_batch_commit(struct mc_writer *writer, uint64_t *generation,
                                      struct mc_error *err);
enum mc_status __wrap_mc_batch_commit(struct mc_writer *writer, uint64_t *generation,
                                      struct mc_error *err);

enum mc_status __wrap_mc_batch_commit(struct mc_writer *writer, uint64_t *generation,
                                      struct mc_error *err)
{
    enum mc_status status = __real_mc_batch_commit(writer, generation, err);
    if (status == MC_OK && *generation != 0) {
        check_commit(writer);
    }
    return status;
}
