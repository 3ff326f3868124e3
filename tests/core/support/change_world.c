/* change_world.c - see change_world.h. */
#include "change_world.h"

struct log_world log_world;

void log_open(void)
{
    CHECK_OK(mc_writer_open(test_path(), &log_world.options, &log_world.writer, &test_error));
}

void log_open_new(uint32_t log_size)
{
    remove_cache(test_path());
    log_world.options = small_options();
    log_world.options.log_size = log_size;
    oracle_clear(&log_world.working);
    log_open();
    log_world.history[0] = log_world.working;
    log_world.now = 0;
}

void log_begin(void)
{
    CHECK_OK(mc_batch_begin(log_world.writer, &test_error));
}

void log_commit(void)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(log_world.writer, &generation, &test_error));
    log_world.now = generation != 0 ? generation : log_world.now;
    log_world.history[log_world.now % HISTORY] = log_world.working;
}

void log_put(int c, int k, int version)
{
    CHECK_OK(put_version(log_world.writer, c, k, version));
    log_world.working.exists[c] = true;
    log_world.working.version[c][k] = version;
}

void log_delete(int c, int k)
{
    bool existed;
    CHECK_OK(delete_key_of(log_world.writer, c, k, &existed));
    log_world.working.version[c][k] = ABSENT;
}

void log_empty(int c)
{
    for (int k = 0; k < KEYS; k++) {
        log_world.working.version[c][k] = ABSENT;
    }
}

void log_drop(int c)
{
    bool existed;
    CHECK_OK(mc_batch_drop(log_world.writer, collection_names[c], strlen(collection_names[c]),
                           &existed, &test_error));
    log_world.working.exists[c] = false;
    log_empty(c);
}

void log_replace(int c)
{
    CHECK_OK(mc_replace_begin(log_world.writer, collection_names[c], strlen(collection_names[c]),
                              &test_error));
    log_world.working.exists[c] = true;
    log_empty(c);
}

struct mc_view log_view(void)
{
    struct mc_view view;
    mc_writer_view(log_world.writer, &view);
    return view;
}

const char *list_changes(uint64_t since)
{
    static char text[4096];
    struct mc_changes changes;
    struct mc_change change;
    struct mc_view view = log_view();
    const char *name = NULL;
    size_t len = 0;
    enum mc_status status = mc_changes_open(&view, since, MC_CHANGES_UNLIMITED, &changes);
    text[0] = '\0';
    if (status != MC_OK) {
        CHECK_EQ(status, MC_ABSENT);
        return "unknown";
    }
    while ((status = mc_changes_next(&changes, &change)) == MC_OK) {
        int64_t k = 0;
        size_t left = sizeof text - len;
        if (change.kind == MC_CHANGE_ALL) {
            len += (size_t)snprintf(text + len, left, "%sall", len > 0 ? ", " : "");
            continue;
        }
        if (change.name != name) {
            len += (size_t)snprintf(text + len, left, "%s%.*s", len > 0 ? ", " : "",
                                    (int)change.name_len, change.name);
            name = change.name;
            left = sizeof text - len;
        }
        if (change.kind == MC_CHANGE_COLLECTION) {
            len += (size_t)snprintf(text + len, left, " *");
            continue;
        }
        memcpy(&k, change.key.data, sizeof k);
        len += (size_t)snprintf(text + len, left, " %c%d", change.kind == MC_CHANGE_PUT ? '+' : '-',
                                (int)k);
    }
    CHECK_EQ(status, MC_ABSENT);
    mc_changes_close(&changes);
    CHECK(len < sizeof text);
    return text;
}
