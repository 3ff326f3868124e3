/* crash_judges.c - see crash_judges.h. */
#include "crash_judges.h"

#include "change_judge.h"
#include "writer/writer_state.h"

/* Whether the view shows one of the states that the scenario goes through: 0 the first, -1 none. */
static int which_state(const struct mc_view *view, const struct oracle *states, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        bool equal;
        CHECK_EQ(view_equals(view, &states[i], &equal), MC_OK);
        if (equal) {
            return i;
        }
    }
    return -1;
}

static uint64_t count_nodes(const struct mc_writer *writer)
{
    struct mc_view view;
    struct mc_check_report report;
    mc_writer_view(writer, &view);
    CHECK_OK(mc_check(&view, &report, &test_error));
    return report.nodes;
}

int list_states(const struct scenario *scenario, struct oracle *states)
{
    struct mc_writer *writer;
    struct mc_view view;
    struct oracle now = before;
    int count = 0;
    states[count++] = now;
    restore_image(&image);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    uint64_t nodes = scenario->peculiarity == DEEP ? count_nodes(writer) : 0;
    for (int i = 0; i < scenario->commits; i++) {
        run_commit(scenario, writer, &now, i);
        states[count++] = now;
    }
    mc_writer_view(writer, &view);
    CHECK(scenario->peculiarity != FILLED || view.space.limit > image.len); /* it did grow */
    CHECK(scenario->peculiarity != DEEP || count_nodes(writer) == nodes + 1);
    CHECK(scenario->peculiarity != BROKEN || writer->compaction.keys.bytes > 0);
    mc_writer_close(writer);
    return count;
}

/* The status is one of the reports that somebody made, whole; a file that had one never loses
 * it. */
static void judge_status(const struct scenario *scenario, struct mc_map *map)
{
    bool same_file = scenario->setup_commits > 0 && scenario->peculiarity != DAMAGED;
    struct mc_loader_report status;
    mc_map_report(map, &status);
    int64_t confirmed = strcmp(status.state, "polling") == 0    ? 2
                        : strcmp(status.state, "degraded") == 0 ? 1
                                                                : 0;
    CHECK(strcmp(status.state, status.error) == 0 && status.confirmed_at == confirmed);
    CHECK(confirmed != 0 || (status.state[0] == '\0' && !same_file));
}

/* What the log says of how the scenario's first state became the one that the view shows, and that
 * it makes sense as far back as it goes. A log that was begun anew knows nothing. */
static void judge_log(const struct scenario *scenario, const struct mc_view *view,
                      const struct oracle *states, int state)
{
    bool same_log = scenario->setup_commits > 0 && scenario->peculiarity == PLAIN;
    uint64_t made = view->root.generation - generation_before;
    enum mc_status status = judge_changes(view, generation_before, &states[0], &states[state]);
    CHECK(status == MC_OK || (status == MC_ABSENT && (!same_log || made > 1)));
    for (uint64_t since = 0; since < view->root.generation; since++) {
        struct mc_changes changes;
        struct mc_change change;
        status = mc_changes_open(view, since, MC_CHANGES_UNLIMITED, &changes);
        while (status == MC_OK) {
            status = mc_changes_next(&changes, &change);
        }
        CHECK_EQ(status, MC_ABSENT);
        mc_changes_close(&changes);
    }
}

uint64_t judge_reader(const struct scenario *scenario, const struct oracle *states, int count,
                      struct mc_map *map)
{
    struct mc_view view;
    bool may_wait = image.len == 0 || scenario->peculiarity == DAMAGED;
    judge_status(scenario, map);
    enum mc_status status = mc_view_open(map, &view, &test_error);
    if (status == MC_OK) {
        int state = which_state(&view, states, count);
        CHECK(state >= 0);
        CHECK(view.root.generation >= generation_before);
        judge_log(scenario, &view, states, state);
        check_clean(&view);
        return view.root.generation;
    }
    CHECK(status == MC_NOT_READY || (status == MC_CORRUPT && scenario->peculiarity == DAMAGED));
    CHECK(status == MC_CORRUPT || may_wait || scenario->peculiarity == REBOOTED);
    return 0;
}

uint64_t judge_new_reader(const struct scenario *scenario, const struct oracle *states, int count,
                          const char *path)
{
    struct mc_map *map;
    enum mc_status status = mc_map_open(path, &map, &test_error);
    if (status == MC_NOT_READY) { /* killed before the file got its name */
        CHECK_EQ(image.len, 0);
        return 0;
    }
    CHECK_EQ(status, MC_OK);
    uint64_t generation = judge_reader(scenario, states, count, map);
    mc_map_release(map);
    return generation;
}

/* A position counts for the generation that it was stored for, or for the same content in a
 * successor, and for no other. Of several that were stored for it a killed loader lost one at
 * most. A second loader may have stored some for what it began with, or none. */
static void judge_position(const struct mc_writer *writer, const struct mc_view *view)
{
    struct mc_superblock superblock;
    const uint8_t *position;
    size_t len = mc_writer_position(writer, &position);
    shm_read(&superblock, view->space.base, sizeof superblock);
    bool same_file = superblock.base_generation == 0;
    uint64_t marked = generation_before + (same_file ? 0 : 1);
    bool anew = !same_file && options.recreate;
    bool again = view->root.generation == generation_again && generation_again != marked;
    if ((view->root.generation != marked && !again) || view->root.published_at == 0 || anew) {
        CHECK_EQ(len, 0);
        return;
    }
    if (again && len == 0) {
        return;
    }
    static const char *const all[] = {MARK_BEFORE, MARK_FIRST, MARK_SECOND};
    bool found = false;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        found = found || (len == strlen(all[i]) && memcmp(position, all[i], len) == 0);
    }
    CHECK(found);
}

int judge_next_loader(const struct oracle *states, int count, const char *path)
{
    struct mc_writer *writer;
    struct mc_view view;
    CHECK_OK(mc_writer_open(path, &options, &writer, &test_error));
    mc_writer_view(writer, &view);
    int state = which_state(&view, states, count);
    CHECK(state >= 0);
    if (view.root.published_at != 0) { /* else the loader has recreated the file, and no more */
        check_clean(&view);
    }
    judge_position(writer, &view);
    struct oracle now = states[state];
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_range(writer, &now, 2, 40, 60, 11);
    commit_all(writer);
    mc_writer_view(writer, &view);
    CHECK_EQ(which_state(&view, &now, 1), 0);
    (void)judge_changes(&view, view.root.generation - 1, &states[state], &now);
    check_clean(&view);
    CHECK(view.root.generation > generation_before);
    /* What is retired is the loader's secret; after it is freed, used and free make the file. */
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open(path, &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_range(writer, &now, 2, 60, 61, 11);
    commit_all(writer);
    mc_writer_view(writer, &view);
    CHECK(view.root.used + view.root.free <= view.space.limit);
    CHECK(view.space.limit - view.root.used - view.root.free <
          16384); /* what this commit retired */
    mc_writer_close(writer);
    return state;
}

void judge_old_view(const struct mc_view *view)
{
    bool equal;
    enum mc_status status = view_equals(view, &before, &equal);
    CHECK(status == MC_EXPIRED || (status == MC_OK && equal));
}
